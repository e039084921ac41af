{{- define "coordinator.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "coordinator.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- $name := include "coordinator.name" . -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 63 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Never changed by an upgrade. */}}
{{- define "coordinator.selectorLabels" -}}
app.kubernetes.io/name: {{ include "coordinator.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: coordinator
{{- end -}}

{{- define "coordinator.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{ include "coordinator.selectorLabels" . }}
app.kubernetes.io/version: {{ .Values.image.tag | default .Chart.AppVersion | trunc 63 | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: recovery-coordinator
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "coordinator.redisLabels" -}}
app.kubernetes.io/name: {{ include "coordinator.name" . }}-redis
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: redis
{{- end -}}

{{- define "coordinator.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "coordinator.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "coordinator.check" -}}
{{- $redis := .Values.redis -}}
{{- if not (or $redis.url $redis.existingSecret $redis.tryOut.enabled) -}}
{{- fail "redis: name the store, by redis.existingSecret (a Secret with its URL), by redis.url, or redis.tryOut.enabled=true for trying out" -}}
{{- end -}}
{{- include "recovery.checkSecrets" (dict "url" $redis.url "name" "redis.url" "env" .Values.extraEnv "envName" "extraEnv") -}}
{{- if and .Values.podEvents.deletionCost (not .Values.podEvents.enabled) -}}
{{- fail "podEvents.deletionCost needs podEvents.enabled" -}}
{{- end -}}
{{- if and .Values.podMonitor.enabled (not .Values.podMonitor.selector) -}}
{{- fail "podMonitor.selector: give the labels of your workers' pods" -}}
{{- end -}}
{{- end -}}

{{- define "coordinator.redisHost" -}}
{{ include "coordinator.fullname" . }}-redis
{{- end -}}

{{/* The store, for the coordinators and for the test. */}}
{{- define "coordinator.storeEnv" -}}
{{- if .Values.redis.tryOut.enabled -}}
- name: COORDINATOR_REDIS_URL
  value: redis://{{ include "coordinator.redisHost" . }}:6379/0
{{- else if .Values.redis.existingSecret -}}
- name: COORDINATOR_REDIS_URL_FILE
  value: /etc/recovery/redis/{{ .Values.redis.existingSecretKey }}
{{- else -}}
- name: COORDINATOR_REDIS_URL
  value: {{ .Values.redis.url }}
{{- end -}}
{{- end -}}

{{/* Secrets of the store, as files: mounts, and their volumes. */}}
{{- define "coordinator.storeMounts" -}}
{{- if .Values.redis.existingSecret }}
- name: redis
  mountPath: /etc/recovery/redis
  readOnly: true
{{- end }}
{{- if .Values.redis.tlsSecret }}
- name: redis-tls
  mountPath: /etc/recovery/tls
  readOnly: true
{{- end }}
{{- end -}}

{{- define "coordinator.storeVolumes" -}}
{{- with .Values.redis.existingSecret }}
- name: redis
  secret:
    secretName: {{ . }}
{{- end }}
{{- with .Values.redis.tlsSecret }}
- name: redis-tls
  secret:
    secretName: {{ . }}
{{- end }}
{{- end -}}

{{- define "coordinator.env" -}}
{{- $own := list
  (dict "name" "COORDINATOR_NAME" "valueFrom" (dict "fieldRef" (dict "fieldPath" "metadata.name")))
  (dict "name" "COORDINATOR_HTTP_HOST" "value" "0.0.0.0")
  (dict "name" "COORDINATOR_HTTP_PORT" "value" "9410")
-}}
{{- if .Values.podEvents.enabled -}}
{{- $own = append $own (dict "name" "COORDINATOR_POD_EVENTS" "value" "true") -}}
{{- $own = append $own (dict "name" "COORDINATOR_POD_NAMESPACE" "value" (.Values.podEvents.namespace | default .Release.Namespace)) -}}
{{- with .Values.podEvents.selector }}{{ $own = append $own (dict "name" "COORDINATOR_POD_SELECTOR" "value" .) }}{{ end -}}
{{- if .Values.podEvents.deletionCost }}{{ $own = append $own (dict "name" "COORDINATOR_POD_DELETION_COST" "value" "true") }}{{ end -}}
{{- end -}}
{{- $first := concat (include "coordinator.storeEnv" . | fromYamlArray) $own (include "recovery.settingsEnv" .Values.settings | fromYamlArray) -}}
{{- include "recovery.mergedEnv" (dict "first" $first "last" .Values.extraEnv) -}}
{{- end -}}
