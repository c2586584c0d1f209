"""What the store needs, as the package's own manifests have it, for as long as those are not there."""

__all__ = ["ACCOUNT", "manifests"]

ACCOUNT = "peerload"
_CRD = """
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: peerloadrecords.peerload.dev}
spec:
  group: peerload.dev
  scope: Namespaced
  names:
    kind: PeerloadRecord
    plural: peerloadrecords
    singular: peerloadrecord
    shortNames: [plr]
    categories: [peerload]
  versions:
    - name: v1
      served: true
      storage: true
      schema:
        openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}
"""
_ROLE = """
apiVersion: v1
kind: ServiceAccount
metadata: {name: peerload, namespace: NAMESPACE}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: peerload, namespace: NAMESPACE}
rules:
  - {apiGroups: [peerload.dev], resources: [peerloadrecords], verbs: [get, list, watch, create, patch, delete]}
  - {apiGroups: [""], resources: [configmaps], verbs: [get, list, create, patch, delete]}
  - {apiGroups: [""], resources: [pods], verbs: [get]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: peerload, namespace: NAMESPACE}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: peerload}
subjects: [{kind: ServiceAccount, name: peerload, namespace: NAMESPACE}]
"""


def manifests(part: str, *, namespace: str) -> str:
    """As peerload.store.kubernetes.manifests has it."""
    role = _ROLE.replace("NAMESPACE", namespace)
    return {"crd": _CRD, "role": role, "all": f"{_CRD}\n---\n{role}"}[part]
