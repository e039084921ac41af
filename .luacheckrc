-- The scripts are put together from parts (see the USES line of each header), so names of one file are used in another. What is ignored
-- here for that is looked for in the scripts as they are loaded, by tests/store/test_lint.py.
std = "lua51"
read_globals = { "KEYS", "ARGV", "redis" }
globals = {}
ignore = {
  "113", -- an undefined global: functions of lua/lib, which stand before the script when it runs
  "143",
  "211", -- an unused local: functions of lua/lib are used by the scripts, and keys are all named
}
max_line_length = 190
