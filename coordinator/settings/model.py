"""Every setting with its default and its bounds, and what follows from several; longer rules stand in `rules` and `fitting`."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Literal, Self

from pydantic import PrivateAttr, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from coordinator.errors import ConfigurationError
from coordinator.keyring import KeyRing, KeySource
from coordinator.settings import fitting, rules
from coordinator.settings.groups import DAEMON, EVERY, OWNERS, SERVERS, SIDECAR, WORKER, Group, setting
from coordinator.settings.names import ENV_PREFIX, SECRETS
from coordinator.settings.secret_files import SecretsReadAgain, tokens_in
from coordinator.settings.sources import ConfigFile, Environment, Profile, SecretFiles, secret_path
from coordinator.settings.units import Duration, Labels, Size
from coordinator.store.durability import Durability

__all__ = ["Settings"]


class Settings(BaseSettings):
    """Everything that can be set; the names are those of the environment in lower case, without the prefix."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX,
        extra="forbid",
        env_ignore_empty=True,
        validate_default=True,
        hide_input_in_errors=True,  # pydantic's own messages would repeat all values, secrets too
    )

    redis_url: SecretStr | None = setting(
        Group.STORE,
        EVERY,
        None,
        "the store: `redis://`, `rediss://`, `unix://`, `redis+sentinel://host:port,…/service/db`, "
        "`redis+cluster://host:port,…` (`docs/security.md`); unset: an embedded Redis, for trying out",
    )
    prefix: str = setting(
        Group.STORE, EVERY, "recovery", "first part of the names of all keys in Redis", pattern=rules.PREFIX
    )
    without_info: bool = setting(
        Group.STORE,
        EVERY,
        False,
        "start even if the Redis user may not run `INFO`; the program then sees neither lost writes nor lost connections",
    )
    partitions: int = setting(
        Group.STORE, EVERY, 1, "number of independent groups of keys; fixed at the first start", ge=1, le=256
    )

    name: str = setting(
        Group.PROCESS, EVERY, "", "stable name of this process; default: the name of the host", validate_default=True
    )
    pool: str = setting(
        Group.WORKER, OWNERS, "default", "pool of this worker; the offers of a pool go only to its instances"
    )
    tenant: str = setting(
        Group.WORKER, OWNERS, "", "tenant whose sessions this worker opens and takes; default: any tenant"
    )
    capacity: int = setting(
        Group.WORKER, OWNERS, 100, "number of sessions up to which this worker takes offers", ge=0, le=1_000_000
    )
    labels: Labels = setting(Group.WORKER, OWNERS, {}, "labels of this worker: zone=a,version=2, or JSON")
    address: str = setting(Group.WORKER, OWNERS, "", "address of this worker, which a look-up by session id returns")
    watcher_socket: str = setting(
        Group.WORKER,
        WORKER,
        "",
        "unix socket of the supervisor or sidecar that certifies this worker's exit; none: not watched; default: the "
        "socket in RECOVERY_SOCKET",
    )
    watch_exit: bool = setting(
        Group.WORKER,
        WORKER,
        True,
        "run a small process beside this worker that certifies its exit; not where a supervisor or sidecar does, and not "
        "where it could not help",
    )

    profile: Literal["fast", "default", "safe"] = setting(
        Group.TIMING,
        EVERY,
        "default",
        "set of timing settings that fit together; each of them can still be set by itself",
    )
    heartbeat_interval: Duration = setting(Group.TIMING, EVERY, 0.25, "time between two heartbeats, ±10 %")
    dead_after: Duration = setting(Group.TIMING, EVERY, 2.0, "silence after which an instance is declared dead")
    lost_connection_after: Duration = setting(
        Group.TIMING,
        EVERY,
        1.0,
        "age of the last heartbeat at which a lost connection means death; 0: connections do not count",
    )
    safety_margin: Duration = setting(
        Group.TIMING, EVERY, 0.25, "time between the end of a trust window and the earliest declaration of death"
    )
    max_scan_gap: Duration = setting(
        Group.TIMING,
        EVERY,
        1.0,
        "longest gap between two scans; a longer one means that a program or Redis paused, and starts a hold",
    )
    wedged_after: Duration = setting(
        Group.TIMING, EVERY, 5.0, "time for which an event loop may stand still before its worker is wedged"
    )
    # The kubelet starts a container that died for the second time in a row after 10 to 25 s (a sync that comes just before
    # the end of the back-off is followed by a pause of 10 to 15 s), and the program needs two to four more.
    sidecar_restart: Duration = setting(
        Group.TIMING,
        SIDECAR,
        30.0,
        "time that a sidecar that died has to start again before its silence counts against its workers",
    )
    store_timeout: Duration = setting(
        Group.STORE, EVERY, 0.5, "time without any movement of bytes after which a call to Redis fails"
    )
    durability: str = setting(
        Group.STORE,
        EVERY,
        "",
        "`replicas:N`: openings, adoptions, handovers and certificates wait until N replicas have them, at most a quarter "
        "of STORE_TIMEOUT; then they go on, and `not_replicated` is logged; default: no wait",
    )
    lease: Duration = setting(Group.OFFERS, EVERY, 3.0, "time that a worker has to read and adopt an offer")

    max_offers: int = setting(
        Group.OFFERS,
        EVERY,
        5,
        "deliveries without an adoption after which a session becomes a dead letter",
        ge=1,
        le=1_000_000,
    )
    max_recoveries: int = setting(
        Group.OFFERS,
        EVERY,
        3,
        "times that a session may be orphaned within RECOVERY_WINDOW; one more makes it a dead letter",
        ge=0,
        le=1_000_000,
    )
    recovery_window: Duration = setting(Group.OFFERS, EVERY, 600.0, "time over which MAX_RECOVERIES counts")
    give_up_after: Duration = setting(
        Group.OFFERS, EVERY, 300.0, "age at which an orphan becomes a dead letter, as its caller has hung up"
    )
    breaker_min: int = setting(
        Group.BREAKER, DAEMON, 3, "number of instances silent at once that opens the mass breaker", ge=1, le=1_000_000
    )
    breaker_share: float = setting(
        Group.BREAKER,
        DAEMON,
        0.3,
        "share of instances silent at once that opens the mass breaker, where it is more than BREAKER_MIN",
        gt=0,
        le=1,
    )
    breaker_window: Duration = setting(
        Group.BREAKER, DAEMON, 2.0, "time within which the mass breaker counts silent instances together"
    )

    drain_timeout: Duration = setting(Group.DRAIN, OWNERS, 45.0, "time that a drain has to hand every session over")
    drain_concurrency: int = setting(
        Group.DRAIN, OWNERS, 10, "number of sessions that a drain offers at a time", ge=1, le=1_000_000
    )
    termination_grace_period: Duration | None = setting(
        Group.DRAIN, OWNERS, None, "the pod's terminationGracePeriodSeconds, to be checked against DRAIN_TIMEOUT"
    )
    max_data_bytes: Size = setting(
        Group.DATA, OWNERS, 65536, "largest recovery data of a session", le=rules.MOST_DATA_BYTES
    )
    closed_ttl: Duration = setting(
        Group.RECORDS, OWNERS, 86400.0, "time for which the record of a closed session is kept"
    )
    fenced_ttl: Duration = setting(Group.RECORDS, EVERY, 86400.0, "time for which the id of a dead instance is refused")
    dead_letter_ttl: Duration = setting(Group.RECORDS, EVERY, 604800.0, "time for which a dead letter is kept")

    http_host: str = setting(
        Group.HTTP, SERVERS, "127.0.0.1", "address on which health, metrics and the status page are served"
    )
    http_port: int = setting(
        Group.HTTP,
        SERVERS,
        9410,
        "port on which health, metrics and the status page are served; 0: any free port",
        ge=0,
        le=65535,
    )
    http_tcp: Literal["all", "health", "off"] = setting(
        Group.HTTP,
        SERVERS,
        "all",
        "what HTTP_PORT serves: all; health: only health and metrics; off: nothing, the port is closed (a sidecar then "
        "needs HTTP_SOCKET)",
    )
    http_socket: str = setting(
        Group.HTTP, SIDECAR, "", "unix socket on which the sidecar serves, mode 0660; default: none"
    )
    http_socket_shared: bool = setting(
        Group.HTTP,
        SIDECAR,
        False,
        "let programs of every user connect to HTTP_SOCKET (mode 0666), and take none for an administrator because of its "
        "user: for a directory that only this pod has",
    )
    drain_port: int = setting(
        Group.HTTP, SIDECAR, 9411, "port on which the sidecar serves a kubelet's preStop hook", ge=0, le=65535
    )
    api_token: SecretStr | None = setting(
        Group.HTTP,
        SERVERS,
        None,
        "token of administrators and of callers that are not on loopback; two tokens, separated by a comma, can be valid",
    )
    drain_token: SecretStr | None = setting(
        Group.HTTP,
        SIDECAR,
        None,
        "token of the preStop hook, valid only there, as a hook's headers stand in the pod's specification",
    )
    worker_token_optional: bool = setting(
        Group.HTTP,
        SIDECAR,
        False,
        "for a sidecar of one worker: a request from this machine needs no Worker-Token while only one worker is "
        "registered",
    )
    encryption_keys: SecretStr | None = setting(
        Group.DATA,
        OWNERS,
        None,
        "keys that seal recovery data and stored conversations: id:base64,id2:base64; the first one seals, all of them open",
    )
    sealed_only: bool = setting(
        Group.DATA, OWNERS, False, "with ENCRYPTION_KEYS: treat recovery data that is not sealed as broken"
    )
    pod_events: bool = setting(
        Group.PODS,
        DAEMON,
        False,
        "watch pods of Kubernetes; a pod that ended certifies its instances (needs the extra kubernetes)",
    )
    pod_namespace: str = setting(
        Group.PODS, DAEMON, "", "namespace of the watched pods; default: the service account's", pattern=rules.NAMESPACE
    )
    pod_selector: str = setting(
        Group.PODS, DAEMON, "", "label selector of the watched pods; default: all pods of the namespace"
    )
    pod_deletion_cost: bool = setting(
        Group.PODS,
        DAEMON,
        False,
        "annotate pods of ReplicaSets with their live calls, so that Kubernetes removes the emptiest first",
    )
    pod_api: str = setting(
        Group.PODS, DAEMON, "", "URL of the Kubernetes API server; default: the server of this process's cluster"
    )
    pod_credentials: str = setting(
        Group.PODS,
        DAEMON,
        "/var/run/secrets/kubernetes.io/serviceaccount",
        "directory with token, ca.crt and namespace for the Kubernetes API, read again when they change",
    )
    log_level: Literal["debug", "info", "warning", "error"] = setting(
        Group.PROCESS, EVERY, "info", "lowest level that is logged"
    )
    log_format: Literal["console", "json"] | None = setting(
        Group.PROCESS, EVERY, None, "form of the log; default: console on a terminal, else json"
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Given values, then the environment, secrets in files, the file of COORDINATOR_CONFIG, the profile that they name."""
        nearest_first = Environment, SecretFiles, ConfigFile, Profile
        return (init_settings, *(source(settings_cls) for source in nearest_first))

    _name = field_validator("name", mode="before")(rules.process_name)
    _redis_url = field_validator("redis_url")(rules.store_url)
    _tokens_given = field_validator("api_token", "drain_token")(rules.tokens)
    _durability = field_validator("durability")(rules.durability)
    _pool = field_validator("pool")(rules.pool)
    _labels = field_validator("labels")(rules.labels)
    _texts = field_validator("*")(rules.any_text)
    _pod_api = field_validator("pod_api")(rules.api_server)

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        fitting.check_pods(self)
        fitting.check_times(self)
        return self

    @property
    def trust_window(self) -> float:
        """Seconds, from the sending of the last acknowledged beat, for which a holder may rely on it."""
        return min(self.dead_after, self.lost_connection_after or self.dead_after) - self.safety_margin

    def for_sidecar(self) -> Settings:
        """A copy for a process that stands for workers which do not die with it."""
        settings = self.model_copy()
        settings._stands_for_others = True
        return settings

    @property
    def stands_for_others(self) -> bool:
        """Whether this process stands for workers that do not die with it."""
        return self._stands_for_others

    @property
    def own_dead_after(self) -> float:
        """Seconds after the last beat of an instance of this process at which its silence means death."""
        return max(self.dead_after, self._restart)

    @property
    def own_wedged_after(self) -> float:
        """Seconds for which this process's event loop may stand still before its instances are wedged."""
        return max(self.wedged_after, self._restart)

    @property
    def own_trust_window(self) -> float:
        """Seconds, from the sending of an acknowledged beat, before which nothing but a certificate counts against an instance
        of this process."""
        lost = self.lost_connection_after and max(self.lost_connection_after, self._restart)
        return min(self.own_dead_after, lost or self.own_dead_after) - self.safety_margin

    @property
    def _restart(self) -> float:
        return self.sidecar_restart if self._stands_for_others else 0.0

    @property
    def url(self) -> str | None:
        """The store's URL in clear, None when it is unset."""
        return self.redis_url.get_secret_value() if self.redis_url else None

    _stands_for_others: bool = PrivateAttr(False)
    _in_files: SecretsReadAgain = PrivateAttr(default_factory=lambda: SecretsReadAgain({}))
    _keys: KeySource | None = PrivateAttr(None)

    def reads_again(self, given: Collection[str]) -> None:
        """Has secrets that came from files read again at each use. For the loader.

        Args:
            given: settings that were given, for which no file counts.
        """
        paths = {name: secret_path(name) for name in SECRETS if name not in given}
        self._in_files = SecretsReadAgain({name: path for name, path in paths.items() if path is not None})

    def api_tokens(self) -> tuple[str, ...]:
        """The tokens that are valid now: read again when they were given as ``API_TOKEN_FILE``."""
        return self._tokens("api_token")

    def drain_tokens(self) -> tuple[str, ...]:
        """The tokens with which the preStop hook may be called: those of ``DRAIN_TOKEN`` and of ``API_TOKEN``."""
        return (*self._tokens("drain_token"), *self.api_tokens())

    def _tokens(self, name: Literal["api_token", "drain_token"]) -> tuple[str, ...]:
        last: SecretStr | None = getattr(self, name)
        secret = self._in_files.tokens(name, last)
        if secret is not last:
            setattr(self, name, secret)
        return tokens_in(secret.get_secret_value() if secret else "")

    def key_source(self) -> KeySource | None:
        """The keys of ``ENCRYPTION_KEYS``, read again when their file changes and they were given as one; None when unset.

        Raises:
            ConfigurationError: the keys have another form than ``id:base64,id2:base64``; the message repeats no key.
        """
        if self._keys is None:
            self._keys = self._in_files.keys()
        if self._keys is None and self.encryption_keys:
            self._keys = KeyRing.parse(self.encryption_keys.get_secret_value())
        return self._keys

    @property
    def replicated(self) -> Durability:
        """DURABILITY, read."""
        return Durability.parse(self.durability)

    def current_url(self) -> str:
        """The store's URL as it stands now: read again when it was given as ``REDIS_URL_FILE``.

        Raises:
            ConfigurationError: the URL is unset.
        """
        if (url := self._in_files.url(self.redis_url)) is not self.redis_url:
            self.redis_url = url
        if self.url is None:
            raise ConfigurationError("redis_url is not set: name the store, as in redis://localhost:6379")
        return self.url

    @classmethod
    def for_worker(cls, url: str | None = None, **values: Any) -> Settings:
        """Settings of a worker inside another program: keywords first, then the environment.

        Args:
            url: the store.
            values: by the settings' names; ``encryption_keys`` may also be a `KeyRing`, or a function that returns the present one.

        Raises:
            ConfigurationError: one line for each fault.
        """
        from coordinator.settings.loading import load  # it makes one of these

        given = values.get("encryption_keys")
        keys = given if isinstance(given, KeyRing) or callable(given) else None
        if keys is not None:
            del values["encryption_keys"]
        settings = load(**({} if url is None else {"redis_url": url}), **values)
        settings._keys = keys
        return settings
