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
