{{- define "peerload.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- /* The release's name, with the chart's unless it has that in it already. Names of Services have at most 63 characters. */ -}}
{{- define "peerload.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 63 | trimSuffix "-" -}}
{{- else if contains (include "peerload.name" .) .Release.Name -}}
{{- .Release.Name | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "peerload.name" .) | trunc 63 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "peerload.selector" -}}
app.kubernetes.io/name: {{ include "peerload.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "peerload.labels" -}}
{{ include "peerload.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "peerload.serviceAccount" -}}
{{- .Values.serviceAccount.name | default (ternary (include "peerload.fullname" .) "default" .Values.serviceAccount.create) -}}
{{- end -}}

{{- define "peerload.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}
{{ .repository }}@{{ .digest }}
{{- else -}}
{{ .repository }}:{{ .tag | default $.Chart.AppVersion }}
{{- end -}}
{{- end -}}
{{- end -}}

{{- /* The Secret that has the URL of the Redis. */ -}}
{{- define "peerload.redisSecret" -}}
{{- .Values.store.redis.existingSecret | default (printf "%s-redis" (include "peerload.fullname" . | trunc 57 | trimSuffix "-")) -}}
{{- end -}}

{{- /* How the kubelet asks: by gRPC, or where that is TLS, which its probes do not speak, at the port for metrics. */ -}}
{{- define "peerload.probe" -}}
{{- $root := index . 0 -}}
{{- if $root.Values.tls.existingSecret -}}
httpGet:
  port: metrics
  path: {{ index . 1 }}
{{- else -}}
grpc:
  port: 8001
  {{- with index . 2 }}
  service: {{ . }}
  {{- end }}
{{- end -}}
{{- end -}}
