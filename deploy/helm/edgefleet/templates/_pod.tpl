{{/*
The pod of one component. dict: root, component, roles, image (server or converter), resources, scratch.
Every pod has the role `api` as well: it answers /healthz, /readyz and /metrics. Services send people and devices only to those meant for them.
*/}}
{{- define "edgefleet.pod" -}}
{{- $root := .root -}}
{{- $values := .root.Values -}}
{{- $isFirst := eq .component (include "edgefleet.firstComponent" $root) -}}
{{- $hasGateway := has "gateway" (splitList "," .roles) -}}
metadata:
  labels:
    {{- include "edgefleet.labels" $root | nindent 4 }}
    app.kubernetes.io/component: {{ .component }}
    {{- with $values.podLabels }}{{ toYaml . | nindent 4 }}{{ end }}
  {{- with $values.podAnnotations }}
  annotations: {{ toYaml . | nindent 4 }}
  {{- end }}
spec:
  serviceAccountName: {{ include "edgefleet.fullname" $root }}
  automountServiceAccountToken: {{ $values.automountServiceAccountToken }}
  enableServiceLinks: false
  {{- include "edgefleet.pullSecrets" $root | nindent 2 }}
  securityContext: {{ include "edgefleet.podSecurity" $root | nindent 4 }}
  terminationGracePeriodSeconds: {{ $values.terminationGracePeriodSeconds }}
  {{- with $values.priorityClassName }}
  priorityClassName: {{ . }}
  {{- end }}
  topologySpreadConstraints:
    {{- range list "topology.kubernetes.io/zone" "kubernetes.io/hostname" }}
    - maxSkew: 1
      topologyKey: {{ . }}
      whenUnsatisfiable: ScheduleAnyway
      labelSelector:
        matchLabels:
          {{- include "edgefleet.selector" $root | nindent 10 }}
          app.kubernetes.io/component: {{ $.component }}
    {{- end }}
  {{- with $values.nodeSelector }}
  nodeSelector: {{ toYaml . | nindent 4 }}
  {{- end }}
  {{- with $values.tolerations }}
  tolerations: {{ toYaml . | nindent 4 }}
  {{- end }}
  {{- with $values.affinity }}
  affinity: {{ toYaml . | nindent 4 }}
  {{- end }}
  initContainers:
    - name: {{ $isFirst | ternary "init" "wait" }}
      image: {{ include "edgefleet.image" (dict "root" $root "name" .image) }}
      imagePullPolicy: {{ $values.image.pullPolicy }}
      command: [python3, -c]
      args: [{{ $root.Files.Get "files/first_start.py" | toJson }}, {{ $isFirst | ternary "make" "wait" }}]
      env:
        - {name: EDGEFLEET_SERVER_DATA, value: /var/lib/edgefleet-server}
        - name: POD_NAME
          valueFrom: {fieldRef: {fieldPath: metadata.name}}
        {{- include "edgefleet.environment" $root | nindent 8 }}
      securityContext: {{ include "edgefleet.containerSecurity" $root | nindent 8 }}
      resources: {requests: {cpu: 50m, memory: 128Mi}, limits: {memory: 512Mi}}
      volumeMounts:
        - {name: data, mountPath: /var/lib/edgefleet-server, subPath: server}
        - {name: tmp, mountPath: /tmp}
        {{- include "edgefleet.secretMounts" $root | nindent 8 }}
    {{- if $values.signer.existingClaim }}
    # a sidecar: started before the server, ended after it. The server's container does not mount its keys.
    - name: signer
      image: {{ include "edgefleet.image" (dict "root" $root "name" "server") }}
      imagePullPolicy: {{ $values.image.pullPolicy }}
      restartPolicy: Always
      command: [edgectl, server, signer, --keys, /var/lib/edgefleet-signer, --socket, /run/edgefleet-signer/sign.sock]
      {{- if $values.secrets.keysPassphraseSecret }}
      args: [--passphrase-file, /run/secrets/keys/passphrase]
      {{- end }}
      env: [{name: HOME, value: /tmp}]
      securityContext: {{ include "edgefleet.containerSecurity" $root | nindent 8 }}
      resources: {requests: {cpu: 50m, memory: 96Mi}, limits: {memory: 256Mi}}
      volumeMounts:
        - {name: signer-keys, mountPath: /var/lib/edgefleet-signer}
        - {name: signer-socket, mountPath: /run/edgefleet-signer}
        - {name: signer-tmp, mountPath: /tmp}
        {{- if $values.secrets.keysPassphraseSecret }}
        - {name: passphrase, mountPath: /run/secrets/keys, readOnly: true}
        {{- end }}
    {{- end }}
  containers:
    - name: server
      image: {{ include "edgefleet.image" (dict "root" $root "name" .image) }}
      imagePullPolicy: {{ $values.image.pullPolicy }}
      command: [edgectl, server, start]
      env:
        - {name: EDGEFLEET_SERVER_DATA, value: /var/lib/edgefleet-server}
        - name: EDGEFLEET_SERVER_INSTANCE
          valueFrom: {fieldRef: {fieldPath: metadata.name}}
        - {name: EDGEFLEET_SERVER_ROLES, value: {{ splitList "," .roles | toJson | squote }}}
        {{- if and $values.migrations.enabled $values.database.existingSecret }}
        - {name: EDGEFLEET_SERVER_UPGRADE_SCHEMA_AT_START, value: "false"}
        {{- end }}
        {{- if $values.signer.existingClaim }}
        - {name: EDGEFLEET_SERVER_SIGNER_SOCKET, value: /run/edgefleet-signer/sign.sock}
        {{- end }}
        {{- if has "converter" (splitList "," .roles) }}
        - {name: EDGEFLEET_SERVER_CONVERTER_WORKERS, value: {{ $values.converter.workers | quote }}}
        {{- end }}
        {{- if and $hasGateway $values.broker.filesClaim }}
        - {name: EDGEFLEET_SERVER_BROKER_FOLDER, value: /var/lib/edgefleet-broker}
        {{- end }}
        {{- include "edgefleet.environment" $root | nindent 8 }}
      ports:
        - {name: http, containerPort: 8080}
        - {name: devices, containerPort: 8443}
        {{- if and $hasGateway (eq $values.broker.kind "bundled") }}
        - {name: mqtts, containerPort: 8883}
        {{- end }}
      # a start may migrate a large database: 10 minutes; liveness begins afterwards
      startupProbe: {httpGet: {path: /healthz, port: http}, periodSeconds: 5, failureThreshold: 120}
      livenessProbe: {httpGet: {path: /healthz, port: http}, periodSeconds: 10, timeoutSeconds: 5, failureThreshold: 6}
      # /healthz here too: without a database that writes, /readyz fails, and what only reads would be lost as well
      readinessProbe: {httpGet: {path: /healthz, port: http}, periodSeconds: 5, timeoutSeconds: 5, failureThreshold: 3}
      lifecycle:
        # load balancers stop sending before the server stops listening
        preStop: {sleep: {seconds: 5}}
      securityContext: {{ include "edgefleet.containerSecurity" $root | nindent 8 }}
      resources: {{ toYaml .resources | nindent 8 }}
      volumeMounts:
        - {name: data, mountPath: /var/lib/edgefleet-server, subPath: server}
        - {name: run, mountPath: /var/lib/edgefleet-server/run}
        - {name: broker, mountPath: /var/lib/edgefleet-server/broker}
        - {name: tmp, mountPath: /tmp}
        {{- if $values.signer.existingClaim }}
        - {name: signer-socket, mountPath: /run/edgefleet-signer}
        {{- end }}
        {{- if and $hasGateway $values.broker.filesClaim }}
        - {name: broker-files, mountPath: /var/lib/edgefleet-broker}
        {{- end }}
        {{- include "edgefleet.secretMounts" $root | nindent 8 }}
  volumes:
    - name: data
      persistentVolumeClaim: {claimName: {{ include "edgefleet.claim" $root }}}
    - {name: run, emptyDir: {}}
    - {name: broker, emptyDir: {}}
    - name: tmp
      emptyDir: {sizeLimit: {{ .scratch | default "1Gi" }}}
    {{- if $values.signer.existingClaim }}
    - name: signer-keys
      persistentVolumeClaim: {claimName: {{ $values.signer.existingClaim }}}
    - {name: signer-socket, emptyDir: {medium: Memory, sizeLimit: 1Mi}}
    - {name: signer-tmp, emptyDir: {sizeLimit: 16Mi}}
    {{- end }}
    {{- if and $hasGateway $values.broker.filesClaim }}
    - name: broker-files
      persistentVolumeClaim: {claimName: {{ $values.broker.filesClaim }}}
    {{- end }}
    {{- include "edgefleet.secretVolumes" $root | nindent 4 }}
{{- end -}}

{{/* Deployment or StatefulSet around it. dict: as above, kind, replicas (null where something else scales) */}}
{{- define "edgefleet.workload" -}}
apiVersion: apps/v1
kind: {{ .kind }}
metadata:
  name: {{ include "edgefleet.fullname" .root }}-{{ .component }}
  namespace: {{ .root.Release.Namespace }}
  labels:
    {{- include "edgefleet.labels" .root | nindent 4 }}
    app.kubernetes.io/component: {{ .component }}
spec:
  {{- if not .isScaled }}
  replicas: {{ .replicas }}
  {{- end }}
  {{- if eq .kind "StatefulSet" }}
  serviceName: {{ include "edgefleet.fullname" .root }}-pods
  podManagementPolicy: Parallel
  {{- else }}
  strategy:
    type: RollingUpdate
    rollingUpdate: {maxUnavailable: 0, maxSurge: 1}
  {{- end }}
  revisionHistoryLimit: 5
  selector:
    matchLabels:
      {{- include "edgefleet.selector" .root | nindent 6 }}
      app.kubernetes.io/component: {{ .component }}
  template: {{ include "edgefleet.pod" . | nindent 4 }}
{{- end -}}
