"""Hook point names: there and back, and the nearest name for a wrong one."""

import pytest

from probes.sites import HookPoint, Site, hook_name, parse_hook_point


@pytest.mark.parametrize("gated", [True, False])
def test_every_hook_point_is_found_by_its_name(gated):
    sites = [site for site in Site if gated or site is not Site.MLP_GATE]
    points = [HookPoint(site, 7 if site.per_layer else None) for site in sites]
    names = [hook_name(point, gated=gated) for point in points]
    assert len(set(names)) == len(points)
    assert [parse_hook_point(name, gated=gated) for name in names] == points


@pytest.mark.parametrize(
    ("wrong", "nearest"),
    [
        ("blocks.2.mlp.hook_pots", "blocks.2.mlp.hook_post"),
        ("blocks.2.hook_resid_psot", "blocks.2.hook_resid_post"),
        ("hook_unembedd", "hook_unembed"),
        ("hook_post", "blocks.0.mlp.hook_post"),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest(wrong, nearest):
    with pytest.raises(ValueError, match=f"no hook point is named '{wrong}'; .*'{nearest}'"):
        parse_hook_point(wrong, gated=True)
