{{/*
How to use this library, in the template of your Deployment or StatefulSet (all take the chart's root, `.`):

  spec:
    terminationGracePeriodSeconds: {{ include "recovery.terminationGracePeriodSeconds" . }}
    shareProcessNamespace: {{ include "recovery.shareProcessNamespace" . }}
    initContainers:
      {{- include "recovery.sidecar" . | nindent 6 }}
    containers:
      - name: worker
        env:
          {{- include "recovery.env" . | nindent 10 }}
        lifecycle:
          {{- include "recovery.lifecycle" . | nindent 10 }}
        volumeMounts:
          {{- include "recovery.volumeMounts" . | nindent 10 }}
    volumes:
      {{- include "recovery.volumes" . | nindent 6 }}
*/}}

{{/* Values that do not fit together stop the installation. */}}
{{- define "recovery.check" -}}
{{- $v := .Values.recovery -}}
{{- if and (not $v.redis.url) (not $v.redis.existingSecret) -}}
{{- fail "recovery.redis: name the store, by recovery.redis.existingSecret (a Secret with its URL) or recovery.redis.url" -}}
{{- end -}}
{{- if and $v.redis.url $v.redis.existingSecret -}}
{{- fail "recovery.redis: give url or existingSecret, not both" -}}
{{- end -}}
{{- include "recovery.checkSecrets" (dict "url" $v.redis.url "name" "recovery.redis.url" "env" $v.extraEnv "envName" "recovery.extraEnv") -}}
{{- if not $v.drainToken -}}
{{- fail "recovery.drainToken: give a random text of at least 16 characters; with it the worker's preStop hook calls for the drain" -}}
{{- end -}}
{{- $grace := int $v.terminationGracePeriodSeconds -}}
{{- $needed := add (int $v.drainTimeoutSeconds) (int $v.marginSeconds) -}}
{{- if and $grace (lt $grace (int $needed)) -}}
{{- fail (printf "recovery.terminationGracePeriodSeconds: %d is less than drainTimeoutSeconds (%d) + marginSeconds (%d): the kubelet would kill the pod before its calls are handed over" $grace (int $v.drainTimeoutSeconds) (int $v.marginSeconds)) -}}
{{- end -}}
{{- end -}}

{{/* Seconds of grace that the pod needs. */}}
{{- define "recovery.terminationGracePeriodSeconds" -}}
{{- include "recovery.check" . -}}
{{- $v := .Values.recovery -}}
{{- int $v.terminationGracePeriodSeconds | default (add (int $v.drainTimeoutSeconds) (int $v.marginSeconds)) -}}
{{- end -}}

{{/* Whether the containers of the pod see each other's processes, so that the sidecar sees the end of the worker's, on any kernel. */}}
{{- define "recovery.shareProcessNamespace" -}}
{{- .Values.recovery.shareProcessNamespace -}}
{{- end -}}

{{/* The entry of initContainers: a native sidecar. It starts before the worker and ends after it (KEP-753). */}}
{{- define "recovery.sidecar" -}}
{{- include "recovery.check" . -}}
{{- $v := .Values.recovery -}}
- name: recovery-sidecar
  image: {{ include "recovery.image" (dict "values" $v) }}
  imagePullPolicy: {{ $v.image.pullPolicy }}
  restartPolicy: Always
  args:
    - sidecar
    {{- if $v.coordinate }}
    - --coordinate
    {{- end }}
  env:
    {{- include "recovery.sidecarEnv" . | nindent 4 }}
  ports:
    - name: recovery
      containerPort: {{ $v.ports.http }}
    - name: recovery-drain
      containerPort: {{ $v.ports.drain }}
  startupProbe:
    httpGet:
      path: {{ ternary "/readyz" "/healthz" $v.startupFollowsStore }}
      port: recovery
    periodSeconds: 1
    failureThreshold: 60
  livenessProbe:
    httpGet:
      path: /healthz
      port: recovery
    periodSeconds: 10
    timeoutSeconds: 5
    failureThreshold: 6
  {{- if $v.readinessFollowsStore }}
  readinessProbe:
    httpGet:
      path: /readyz
      port: recovery
    periodSeconds: 2
    failureThreshold: 3
  {{- end }}
  {{- with $v.resources }}
  resources:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  securityContext:
    {{- include "recovery.containerSecurityContext" . | nindent 4 }}
  volumeMounts:
    {{- if $v.socket.enabled }}
    - name: recovery-socket
      mountPath: {{ $v.socket.mountPath }}
    {{- end }}
    {{- if $v.redis.existingSecret }}
    - name: recovery-redis
      mountPath: /etc/recovery/redis
      readOnly: true
    {{- end }}
    {{- if $v.redis.tlsSecret }}
    - name: recovery-redis-tls
      mountPath: /etc/recovery/tls
      readOnly: true
    {{- end }}
    {{- if $v.apiTokenSecret }}
    - name: recovery-api-token
      mountPath: /etc/recovery/api-token
      readOnly: true
    {{- end }}
    {{- if $v.encryptionKeysSecret }}
    - name: recovery-encryption-keys
      mountPath: /etc/recovery/encryption-keys
      readOnly: true
    {{- end }}
    {{- if not (or $v.socket.enabled $v.redis.existingSecret $v.redis.tlsSecret $v.apiTokenSecret $v.encryptionKeysSecret) }}
    []
    {{- end }}
{{- end -}}

{{- define "recovery.sidecarEnv" -}}
{{- $v := .Values.recovery -}}
{{- $grace := include "recovery.terminationGracePeriodSeconds" . -}}
{{- $labels := "pod_uid=$(POD_UID)" -}}
{{- range $name, $text := $v.settings.labels }}{{ $labels = printf "%s,%s=%s" $labels $name $text }}{{ end -}}
{{- $env := list
  (dict "name" "POD_UID" "valueFrom" (dict "fieldRef" (dict "fieldPath" "metadata.uid")))
  (dict "name" "COORDINATOR_NAME" "valueFrom" (dict "fieldRef" (dict "fieldPath" "metadata.name")))
  (dict "name" "COORDINATOR_LABELS" "value" $labels)
  (dict "name" "COORDINATOR_HTTP_HOST" "value" "0.0.0.0")
  (dict "name" "COORDINATOR_HTTP_PORT" "value" (toString $v.ports.http))
  (dict "name" "COORDINATOR_DRAIN_PORT" "value" (toString $v.ports.drain))
  (dict "name" "COORDINATOR_DRAIN_TOKEN" "value" $v.drainToken)
  (dict "name" "COORDINATOR_DRAIN_TIMEOUT" "value" (printf "%ds" (int $v.drainTimeoutSeconds)))
  (dict "name" "COORDINATOR_TERMINATION_GRACE_PERIOD" "value" (printf "%ss" $grace))
-}}
{{- if $v.redis.existingSecret -}}
{{- $env = append $env (dict "name" "COORDINATOR_REDIS_URL_FILE" "value" (printf "/etc/recovery/redis/%s" $v.redis.existingSecretKey)) -}}
{{- else -}}
{{- $env = append $env (dict "name" "COORDINATOR_REDIS_URL" "value" $v.redis.url) -}}
{{- end -}}
{{- if $v.apiTokenSecret -}}
{{- $env = append $env (dict "name" "COORDINATOR_API_TOKEN_FILE" "value" "/etc/recovery/api-token/tokens") -}}
{{- end -}}
{{- if $v.encryptionKeysSecret -}}
{{- $env = append $env (dict "name" "COORDINATOR_ENCRYPTION_KEYS_FILE" "value" "/etc/recovery/encryption-keys/keys") -}}
{{- end -}}
{{- if $v.socket.enabled -}}
{{- $env = append $env (dict "name" "COORDINATOR_HTTP_SOCKET" "value" (printf "%s/sidecar.sock" $v.socket.mountPath)) -}}
{{- $env = append $env (dict "name" "COORDINATOR_HTTP_SOCKET_SHARED" "value" (toString $v.socket.shared)) -}}
{{- end -}}
{{- $settings := include "recovery.settingsEnv" (omit $v.settings "labels") | fromYamlArray -}}
{{- include "recovery.mergedEnv" (dict "first" $env "last" (include "recovery.mergedEnv" (dict "first" $settings "last" $v.extraEnv) | fromYamlArray)) -}}
{{- end -}}

{{/* What tells the worker where its sidecar is. */}}
{{- define "recovery.env" -}}
{{- $v := .Values.recovery -}}
- name: RECOVERY_URL
  value: http://127.0.0.1:{{ $v.ports.http }}
{{- if $v.socket.enabled }}
- name: RECOVERY_SOCKET
  value: {{ $v.socket.mountPath }}/sidecar.sock
{{- end }}
{{- end -}}

{{/* The worker's lifecycle: the kubelet asks the sidecar to hand everything over, and only then sends the worker SIGTERM. */}}
{{- define "recovery.lifecycle" -}}
{{- $v := .Values.recovery -}}
preStop:
  httpGet:
    path: /prestop
    port: {{ $v.ports.drain }}
    httpHeaders:
      - name: Authorization
        value: Bearer {{ $v.drainToken }}
{{- end -}}

{{/* Mounts of the worker, which connects to the socket and changes nothing there; empty without the socket. */}}
{{- define "recovery.volumeMounts" -}}
{{- $v := .Values.recovery -}}
{{- if $v.socket.enabled -}}
- name: recovery-socket
  mountPath: {{ $v.socket.mountPath }}
  readOnly: true
{{- end -}}
{{- end -}}

{{/* Volumes of the pod. With socket.shared: false give the pod a securityContext.fsGroup, so that both containers may use the socket. */}}
{{- define "recovery.volumes" -}}
{{- $v := .Values.recovery -}}
{{- if $v.socket.enabled }}
- name: recovery-socket
  emptyDir:
    medium: Memory
    sizeLimit: 1Mi
{{- end }}
{{- with $v.redis.existingSecret }}
- name: recovery-redis
  secret:
    secretName: {{ . }}
{{- end }}
{{- with $v.redis.tlsSecret }}
- name: recovery-redis-tls
  secret:
    secretName: {{ . }}
{{- end }}
{{- with $v.apiTokenSecret }}
- name: recovery-api-token
  secret:
    secretName: {{ . }}
{{- end }}
{{- with $v.encryptionKeysSecret }}
- name: recovery-encryption-keys
  secret:
    secretName: {{ . }}
{{- end }}
{{- end -}}

{{/*
The rule about the sidecar for a NetworkPolicy of yours that selects the pod, as an entry of its `ingress`: metrics for Prometheus. The worker
speaks to its sidecar on loopback, and the kubelet calls probes and hook from the node: no policy concerns either. Empty when nobody may.
*/}}
{{- define "recovery.ingress" -}}
{{- $v := .Values.recovery -}}
{{- with $v.metricsFrom -}}
- ports:
    - port: {{ $v.ports.http }}
      protocol: TCP
  from:
    {{- toYaml . | nindent 4 }}
{{- end -}}
{{- end -}}
