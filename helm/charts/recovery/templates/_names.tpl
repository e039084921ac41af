{{/* Pieces that the sidecar and the chart of the coordinators share. All take a dict. */}}

{{/* The image. values: .Values with image; version: used when there is neither tag nor digest. */}}
{{- define "recovery.image" -}}
{{- $image := .values.image -}}
{{- if $image.digest -}}
{{ $image.repository }}@{{ $image.digest }}
{{- else -}}
{{ $image.repository }}:{{ $image.tag | default .version }}
{{- end -}}
{{- end -}}

{{/*
No secret stands in values: they are kept with the release and in the pods' specifications, and whoever may read those reads it.
url, name: a URL and what it is called; env: a list of variables, and envName what that is called.
*/}}
{{- define "recovery.checkSecrets" -}}
{{- if or (contains "@" .url) (contains "password=" (lower .url)) -}}
{{- fail (printf "%s: a user or password in it would stand in the release and in each pod's specification: put the URL into a Secret and name that by %s" .name (replace "url" "existingSecret" .name)) -}}
{{- end -}}
{{- $envName := .envName -}}
{{- range .env -}}
{{- $url := and (eq .name "COORDINATOR_REDIS_URL") (or (contains "@" (toString .value)) (contains "password=" (lower (toString .value)))) -}}
{{- if and (hasKey . "value") (or $url (has .name (list "COORDINATOR_API_TOKEN" "COORDINATOR_DRAIN_TOKEN" "COORDINATOR_ENCRYPTION_KEYS"))) -}}
{{- fail (printf "%s: %s by value would stand in the release and in each pod's specification: give it by valueFrom.secretKeyRef, or as a file by %s_FILE" $envName .name .name) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* What a container of ours may do: nothing but run. */}}
{{- define "recovery.containerSecurityContext" -}}
allowPrivilegeEscalation: false
capabilities:
  drop: [ALL]
privileged: false
readOnlyRootFilesystem: true
runAsGroup: 65532
runAsNonRoot: true
runAsUser: 65532
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{/*
Environment variables as a list, each name once: those of `last` replace those of `first` (a server-side apply refuses doubles).
*/}}
{{- define "recovery.mergedEnv" -}}
{{- $replaced := dict -}}
{{- range .last }}{{ $_ := set $replaced .name true }}{{ end -}}
{{- $env := list -}}
{{- range .first }}{{ if not (hasKey $replaced .name) }}{{ $env = append $env . }}{{ end }}{{ end -}}
{{- toYaml (concat $env .last) -}}
{{- end -}}

{{/* Settings as variables: dead_after: 2s becomes COORDINATOR_DEAD_AFTER. */}}
{{- define "recovery.settingsEnv" -}}
{{- $env := list -}}
{{- range $name, $value := . -}}
{{- $text := $value -}}
{{- if and (kindIs "float64" $value) (eq (floor $value) $value) }}{{ $text = int64 $value }}{{ end -}}
{{- $env = append $env (dict "name" (printf "COORDINATOR_%s" (upper $name)) "value" (toString $text)) -}}
{{- end -}}
{{- toYaml $env -}}
{{- end -}}
