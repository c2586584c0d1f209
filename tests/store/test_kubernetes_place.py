"""Kubernetes URLs: what they mean."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peerload.errors import InvalidArgument
from peerload.kubernetes.place import KubernetesPlace


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("kubernetes:", KubernetesPlace()),
        ("kubernetes:inference", KubernetesPlace("inference")),
        ("kubernetes:a-1?instance=Blue_2", KubernetesPlace("a-1", instance="Blue_2")),
        ("kubernetes:?kubeconfig=/etc/k8s/config", KubernetesPlace(kubeconfig="/etc/k8s/config")),
        (
            "kubernetes:ns?context=admin%40prod&kubeconfig=~/a%20b:c",
            KubernetesPlace("ns", kubeconfig="~/a b:c", context="admin@prod"),
        ),
    ],
)
def test_urls(url: str, expected: KubernetesPlace) -> None:
    assert KubernetesPlace.parse(url) == expected


@pytest.mark.parametrize(
    ("url", "part"),
    [
        ("kubernetes", "kubernetes:"),
        ("k8s:ns", "kubernetes:"),
        ("kubernetes://ns", "slashes"),
        ("kubernetes:/ns", "slashes"),
        ("kubernetes:Name", "namespace"),
        ("kubernetes:-a", "namespace"),
        ("kubernetes:a_b", "namespace"),
        (f"kubernetes:{'a' * 64}", "namespace"),
        ("kubernetes:ns%0A", "namespace"),
        ("kubernetes:ns?instance=", "instance"),
        ("kubernetes:ns?instance=a b", "instance"),
        ("kubernetes:ns?instance=.a", "instance"),
        (f"kubernetes:ns?instance={'a' * 64}", "instance"),
        ("kubernetes:ns?instance=a&instance=b", "instance twice"),
        ("kubernetes:ns?kubeconfig=", "kubeconfig"),
        ("kubernetes:ns?kubeconfig=%00", "kubeconfig"),
        ("kubernetes:ns?context", "context"),
        ("kubernetes:ns?token=x", "'token'"),
    ],
)
def test_bad_urls_name_the_part(url: str, part: str) -> None:
    with pytest.raises(InvalidArgument) as error:
        KubernetesPlace.parse(url)
    assert error.value.field == "store"
    assert part in str(error.value)


TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=20)


@settings(max_examples=30)
@given(
    namespace=st.from_regex(r"([a-z0-9]([a-z0-9-]{0,5}[a-z0-9])?)?", fullmatch=True),
    instance=st.from_regex(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,5}[A-Za-z0-9])?", fullmatch=True),
    kubeconfig=st.just("") | TEXT,
    context=st.just("") | TEXT,
)
def test_what_is_shown_is_the_url(namespace: str, instance: str, kubeconfig: str, context: str) -> None:
    place = KubernetesPlace(namespace, instance, kubeconfig, context)
    assert KubernetesPlace.parse(place.shown) == place


def test_only_what_was_chosen_is_shown() -> None:
    assert KubernetesPlace.parse("kubernetes:?instance=main").shown == "kubernetes:"
    assert KubernetesPlace.parse("kubernetes:ns?context=a%40b").shown == "kubernetes:ns?context=a@b"
