{{/*
Labels of everything but the CRDs: Kubernetes' recommended ones, then the user's. Takes a dict of `root` and `component`.
*/}}
{{- define "virtplane.labels" -}}
app.kubernetes.io/name: virtplane
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/component: {{ .component }}
app.kubernetes.io/part-of: virtplane
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- with .root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/*
The served apiVersion of MutatingAdmissionPolicy, empty where the API server has none: the operator then patches the finalizer.
*/}}
{{- define "virtplane.mutatingAdmissionPolicy.apiVersion" -}}
{{- if .Capabilities.APIVersions.Has "admissionregistration.k8s.io/v1/MutatingAdmissionPolicy" -}}
admissionregistration.k8s.io/v1
{{- else if .Capabilities.APIVersions.Has "admissionregistration.k8s.io/v1beta1/MutatingAdmissionPolicy" -}}
admissionregistration.k8s.io/v1beta1
{{- end -}}
{{- end }}

{{/*
Whom the policies for agents hold, and the agent's name from its user name: virtplane:agent:<name>, of group virtplane:agents.
*/}}
{{- define "virtplane.agent.matchConditions" -}}
- name: by-an-agent
  expression: has(request.userInfo.groups) && 'virtplane:agents' in request.userInfo.groups
{{- end }}

{{- define "virtplane.agent.variables" -}}
- name: agent
  expression: >-
    has(request.userInfo.username) && request.userInfo.username.startsWith('virtplane:agent:')
    ? request.userInfo.username.substring(size('virtplane:agent:')) : ''
{{- end }}

{{- define "virtplane.agent.isNamed" -}}
- expression: variables.agent != ''
  message: a member of the group virtplane:agents must be a user of the name virtplane:agent:<agent name>
  reason: Forbidden
{{- end }}
