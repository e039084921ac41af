module example.org/voice-worker

go 1.19
