{{/* At most 30 characters: a pod's name is the instance of its server, which has at most 59 */}}
{{- define "edgefleet.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 30 | trimSuffix "-" -}}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 30 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 30 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "edgefleet.selector" -}}
app.kubernetes.io/name: {{ default .Chart.Name .Values.nameOverride }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "edgefleet.labels" -}}
{{ include "edgefleet.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: edgefleet
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "edgefleet.claim" -}}
{{- .Values.storage.existingClaim | default (printf "%s-data" (include "edgefleet.fullname" .)) -}}
{{- end -}}

{{/* dict root, name (server or converter) */}}
{{- define "edgefleet.image" -}}
{{- $image := .root.Values.image -}}
{{- $name := index $image .name -}}
{{- $tag := $image.tag | default .root.Chart.AppVersion -}}
{{- with $image.registry }}{{ . }}/{{ end }}{{ $name }}:{{ $tag }}
{{- end -}}

{{/* The component whose pods devices reach, and those whose pods have a broker */}}
{{- define "edgefleet.deviceComponent" -}}
{{- if eq .Values.mode "single" }}server{{ else if eq .Values.broker.kind "bundled" }}gateway{{ else }}api{{ end -}}
{{- end -}}
{{- define "edgefleet.apiComponent" -}}
{{- if eq .Values.mode "single" }}server{{ else }}api{{ end -}}
{{- end -}}
{{- define "edgefleet.firstComponent" -}}
{{- if eq .Values.mode "single" }}server{{ else }}gateway{{ end -}}
{{- end -}}

{{- define "edgefleet.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}
{{- define "edgefleet.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{/* Settings that all roles have in common. Nothing secret: files name those. */}}
{{- define "edgefleet.environment" -}}
- {name: HOME, value: /tmp}
- {name: EDGEFLEET_SERVER_TENANT, value: {{ .Values.tenant | quote }}}
- {name: EDGEFLEET_SERVER_PUBLIC_HOST, value: {{ .Values.publicHost | quote }}}
- {name: EDGEFLEET_SERVER_API_HOST, value: "0.0.0.0"}
- {name: EDGEFLEET_SERVER_API_PORT, value: "8080"}
- {name: EDGEFLEET_SERVER_BEHIND_PROXY, value: "true"}
- {name: EDGEFLEET_SERVER_DEVICE_HOST, value: "0.0.0.0"}
- {name: EDGEFLEET_SERVER_DEVICE_PORT, value: "8443"}
- {name: EDGEFLEET_SERVER_LOG_FORMAT, value: json}
{{- if eq .Values.broker.kind "bundled" }}
- {name: EDGEFLEET_SERVER_BROKER, value: mosquitto}
- {name: EDGEFLEET_SERVER_BROKER_HOST, value: "0.0.0.0"}
- {name: EDGEFLEET_SERVER_BROKER_PORT, value: "8883"}
{{- else }}
- {name: EDGEFLEET_SERVER_BROKER, value: {{ .Values.broker.url | quote }}}
{{- end }}
{{- with .Values.api.trustedProxies }}
- {name: FORWARDED_ALLOW_IPS, value: {{ . | quote }}}
{{- end }}
{{- if .Values.database.existingSecret }}
- {name: EDGEFLEET_SERVER_DATABASE_URL_FILE, value: /run/secrets/database/url}
{{- end }}
{{- if .Values.secrets.keysPassphraseSecret }}
- {name: EDGEFLEET_SERVER_KEYS_PASSPHRASE_FILE, value: /run/secrets/keys/passphrase}
{{- end }}
{{- if .Values.secrets.sealingKeysSecret }}
- {name: EDGEFLEET_SERVER_SECRETS_KEY_FILE, value: /run/secrets/sealing/keys}
{{- end }}
{{- with .Values.blobs.url }}
- {name: EDGEFLEET_SERVER_BLOB_URL, value: {{ . | quote }}}
{{- end }}
{{- with .Values.blobs.endpoint }}
- {name: AWS_ENDPOINT_URL, value: {{ . | quote }}}
{{- end }}
{{- with .Values.blobs.region }}
- {name: AWS_REGION, value: {{ . | quote }}}
{{- end }}
{{- with .Values.blobs.existingSecret }}
- name: AWS_ACCESS_KEY_ID
  valueFrom: {secretKeyRef: {name: {{ . }}, key: AWS_ACCESS_KEY_ID}}
- name: AWS_SECRET_ACCESS_KEY
  valueFrom: {secretKeyRef: {name: {{ . }}, key: AWS_SECRET_ACCESS_KEY}}
{{- end }}
{{- range $name, $value := .Values.settings }}
- {name: EDGEFLEET_SERVER_{{ $name | upper }}, value: {{ toString $value | quote }}}
{{- end }}
{{- end -}}

{{- define "edgefleet.secretMounts" -}}
{{- if .Values.database.existingSecret }}
- {name: database, mountPath: /run/secrets/database, readOnly: true}
{{- end }}
{{- if .Values.secrets.keysPassphraseSecret }}
- {name: passphrase, mountPath: /run/secrets/keys, readOnly: true}
{{- end }}
{{- if .Values.secrets.sealingKeysSecret }}
- {name: sealing, mountPath: /run/secrets/sealing, readOnly: true}
{{- end }}
{{- end -}}

{{- define "edgefleet.secretVolumes" -}}
{{- with .Values.database }}{{ if .existingSecret }}
- name: database
  secret: {secretName: {{ .existingSecret }}, defaultMode: 0440, items: [{key: {{ .key }}, path: url}]}
{{- end }}{{ end }}
{{- with .Values.secrets }}{{ if .keysPassphraseSecret }}
- name: passphrase
  secret: {secretName: {{ .keysPassphraseSecret }}, defaultMode: 0440, items: [{key: {{ .keysPassphraseKey }}, path: passphrase}]}
{{- end }}{{ if .sealingKeysSecret }}
- name: sealing
  secret: {secretName: {{ .sealingKeysSecret }}, defaultMode: 0440, items: [{key: {{ .sealingKeysKey }}, path: keys}]}
{{- end }}{{ end }}
{{- end -}}

{{- define "edgefleet.pullSecrets" -}}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
{{- range . }}
  - name: {{ . }}
{{- end }}
{{- end }}
{{- end -}}
