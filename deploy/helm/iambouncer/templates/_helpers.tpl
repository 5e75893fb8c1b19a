{{/* Names, labels and computed values that several templates use. */}}

{{- define "iambouncer.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "iambouncer.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 57 | trimSuffix "-" -}}
{{- else -}}
{{- $name := include "iambouncer.name" . -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 57 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 57 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* The name by which replicas find each other. Names above are six characters shorter than allowed for this suffix. */}}
{{- define "iambouncer.peersName" -}}
{{- printf "%s-peers" (include "iambouncer.fullname" .) -}}
{{- end -}}

{{- define "iambouncer.selectorLabels" -}}
app.kubernetes.io/name: {{ include "iambouncer.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "iambouncer.labels" -}}
{{ include "iambouncer.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "iambouncer.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "iambouncer.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "iambouncer.image" -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) -}}
{{- end -}}
{{- end -}}

{{- define "iambouncer.gracePeriod" -}}
{{- if kindIs "invalid" .Values.terminationGracePeriodSeconds -}}
{{- add .Values.drain.maxSeconds 5 -}}
{{- else -}}
{{- .Values.terminationGracePeriodSeconds -}}
{{- end -}}
{{- end -}}

{{/* The source of the configuration: database, config or configMap. Exactly one may be given. */}}
{{- define "iambouncer.source" -}}
{{- $sources := list -}}
{{- if .Values.database.host }}{{ $sources = append $sources "database" }}{{ end -}}
{{- if .Values.config }}{{ $sources = append $sources "config" }}{{ end -}}
{{- if .Values.existingConfigMap.name }}{{ $sources = append $sources "configMap" }}{{ end -}}
{{- if ne (len $sources) 1 -}}
{{- fail "set exactly one of database.host, config and existingConfigMap.name" -}}
{{- end -}}
{{- first $sources -}}
{{- end -}}

{{/* Method of clients for a start without a file. A service in a network must not serve every client by oversight. */}}
{{- define "iambouncer.authType" -}}
{{- if .Values.authType -}}
{{- .Values.authType -}}
{{- else if .Values.authFile.existingSecret -}}
scram-sha-256
{{- else -}}
{{- fail "set authFile.existingSecret to a Secret with users, or authType to `any` to serve every client that can connect" -}}
{{- end -}}
{{- end -}}

{{/* A number without exponent, a boolean as 0 or 1, and any other value as it is. */}}
{{- define "iambouncer.iniValue" -}}
{{- if kindIs "bool" . -}}
{{- ternary "1" "0" . -}}
{{- else if and (kindIs "float64" .) (eq (floor .) .) -}}
{{- int64 . -}}
{{- else -}}
{{- . -}}
{{- end -}}
{{- end -}}

{{/* pgbouncer.ini from `config`. */}}
{{- define "iambouncer.ini" -}}
{{- $fixed := list "listen_addr" "listen_port" "http_addr" "http_port" "unix_socket_dir" "workers" "drain_min_seconds" "drain_max_seconds" -}}
{{- if .Values.peers.enabled }}{{ $fixed = append $fixed "peer_host" }}{{ end -}}
{{- if .Values.authFile.existingSecret }}{{ $fixed = append $fixed "auth_file" }}{{ end -}}
{{- if .Values.dashboardToken.existingSecret }}{{ $fixed = append $fixed "http_token_file" }}{{ end -}}
{{- range $section, $lines := .Values.config }}
[{{ $section }}]
{{- if kindIs "string" $lines }}
{{ trim $lines }}
{{- else }}
{{- range $name, $value := $lines }}
{{- if and (has $section (list "pgbouncer" "iambouncer")) (has $name $fixed) }}
{{- fail (printf "config.%s.%s: the chart sets this; see service.port, workers, drain, peers, authFile and dashboardToken" $section $name) }}
{{- end }}
{{ $name }} = {{ include "iambouncer.iniValue" $value }}
{{- end }}
{{- end }}
{{ end -}}
{{- end -}}
