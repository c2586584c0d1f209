"""A real Kubernetes of the tests' own: etcd, kube-apiserver and, where it is wanted, kube-controller-manager.

::

    with ControlPlane(tmp_path / "kube").running() as kube:
        namespace = kube.fresh_namespace()          # with Peerload's Role, and a service account that has it
        namespace.kubeconfig()                      # a file with that account's token
        kube.admin.get(f"/api/v1/namespaces/{namespace.name}")
        kube.server.kill(), kube.etcd[0].pause(), …

Tests that stop nothing share one per test process (`shared_kube`) and have a namespace each (`kube_namespace`).
"""

from tests.support.kube.admin import Admin, KubeRefused
from tests.support.kube.namespaces import Namespace
from tests.support.kube.plane import ControlPlane
from tests.support.kube.programs import needs_kube, program
from tests.support.kube.proxy import Answer, Asked, Cut, FaultProxy, Hold, Lose

__all__ = [
    "Admin",
    "Answer",
    "Asked",
    "ControlPlane",
    "Cut",
    "FaultProxy",
    "Hold",
    "KubeRefused",
    "Lose",
    "Namespace",
    "needs_kube",
    "program",
]
