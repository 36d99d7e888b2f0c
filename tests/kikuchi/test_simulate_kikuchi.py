"""systems/kikuchi/simulate/specimens.py: geometry against real patterns, known truth, the same bytes for the same seed."""

import hashlib

import h5py
import numpy as np
import pandas as pd
import pytest
from scipy import ndimage

from microlatent.systems.kikuchi.ebsd import find_scans
from microlatent.systems.kikuchi.patterns import Preprocessing
from microlatent.systems.kikuchi.schema import AssembleKikuchiConfig
from microlatent.systems.kikuchi.simulate import diffraction, orientations, specimens

NICKEL = diffraction.Crystal("Ni", 3.5236, 225, {(1, 1, 1): 1.0, (2, 0, 0): 0.879, (2, 2, 0): 0.627}, {}, 1.0)


def ncc(first, second):
    first, second = first - first.mean(), second - second.mean()
    return (first * second).sum() / np.sqrt((first**2).sum() * (second**2).sum())


def flattened(pattern):
    return pattern - ndimage.gaussian_filter(np.asarray(pattern, float), pattern.shape[1] / 8)


@pytest.fixture(scope="session")
def demo(tmp_path_factory):
    """Return a small specimen's folder."""
    return specimens.simulate(tmp_path_factory.mktemp("kikuchi") / "demo", map_shape=(20, 24), pattern_px=40, num_grains=6)


@pytest.fixture
def real(data_folder, tmp_path, monkeypatch):
    """Return the folder of the real nickel's specimen."""
    monkeypatch.setenv("MICROLATENT_DATA", str(data_folder))
    return specimens.simulate_real(tmp_path / "demo_real")


# ------------------------------------------------------------------------------------------------------ the sphere


def directions(count=2000, seed=0):
    v = np.random.default_rng(seed).normal(size=(count, 3))
    axes = np.concatenate([np.eye(3), -np.eye(3), [[1, 1, 0], [1, -1, 0], [1, 1, 1]]])
    v = np.concatenate([v, axes])
    return v / np.linalg.norm(v, axis=1, keepdims=True)


def test_square_and_sphere_are_inverse():
    v = directions()
    v[:, 2] = np.abs(v[:, 2])
    x, y = diffraction.to_square(v)
    assert max(np.abs(x).max(), np.abs(y).max()) <= diffraction.EDGE * (1 + 1e-12)
    assert diffraction.from_square(x, y) == pytest.approx(v, abs=1e-7)


def test_square_keeps_areas():
    # Directions at random fill the square evenly.
    v = directions(200_000)
    counts, _, _ = np.histogram2d(*diffraction.to_square(v), bins=8, range=[[-diffraction.EDGE, diffraction.EDGE]] * 2)
    assert counts.std() / counts.mean() < 3 / np.sqrt(counts.mean())


def test_looking_up_gives_what_was_projected():
    half = diffraction.square_grid(201)
    value = [3 * half[..., 0] - half[..., 1] ** 2 + sign * half[..., 2] for sign in (1, -1)]
    v = directions()
    expected = 3 * v[:, 0] - v[:, 1] ** 2 + v[:, 2]
    assert diffraction.look_up(np.array(value), v) == pytest.approx(expected, abs=1e-2)  # least exact at the diagonals


# ------------------------------------------------------------------------------------------------------- crystals


def test_wavelengths_and_bragg_angles_are_those_of_tables():
    found = [diffraction.wavelength_angstrom(kv) for kv in (10, 15, 20, 30)]
    assert found == pytest.approx([0.12205, 0.09941, 0.08589, 0.06979], abs=1e-5)
    assert np.degrees(diffraction.bragg_rad(3.5236, (1, 1, 1), 20.0)) == pytest.approx(1.2095, abs=1e-3)


@pytest.mark.parametrize(("hkl", "count"), [((1, 0, 0), 3), ((1, 1, 0), 6), ((1, 1, 1), 4), ((3, 1, 1), 12), ((3, 2, 1), 24)])
def test_a_family_holds_every_plane_once(hkl, count):
    planes = diffraction.family(hkl)
    assert len(planes) == count
    assert not {tuple(plane) for plane in planes} & {tuple(-plane) for plane in planes}


def test_a_band_is_bright_inside_and_dark_beside():
    edge = 0.02
    inside, at, beside, far = (float(diffraction.band_profile(np.array(s), edge)) for s in (0, edge, 1.4 * edge, 1.0))
    assert inside > at > far > beside
    assert far == pytest.approx(0, abs=0.01)


def test_a_master_pattern_has_the_symmetry_of_the_cube():
    master = diffraction.kinematic_master(NICKEL, side=301)
    v = directions(400).astype(np.float32)
    expected = diffraction.look_up(master, v)
    for matrix in [*orientations.cubic_rotations(), -np.eye(3)]:
        assert ncc(diffraction.look_up(master, v @ matrix.astype(np.float32)), expected) > 0.99


def test_matrices_and_angles_are_inverse():
    g = orientations.random_rotations(np.random.default_rng(0), 200)
    g[0], g[1] = np.eye(3), orientations.bunge_matrix([0.4, np.pi, 0.0])
    assert orientations.bunge_matrix(orientations.bunge_angles(g)) == pytest.approx(g, abs=1e-7)
    assert g @ np.swapaxes(g, 1, 2) == pytest.approx(np.broadcast_to(np.eye(3), g.shape), abs=1e-12)
    phi1, Phi = 0.3, 0.5  # sample x, turned by phi1 about z, stays in the plane of x and y until Phi tilts it
    assert orientations.bunge_matrix([phi1, Phi, 0.0])[:, 0] == pytest.approx(
        [np.cos(phi1), -np.sin(phi1) * np.cos(Phi), np.sin(phi1) * np.sin(Phi)]
    )


def test_small_rotations_turn_by_their_length():
    vector = np.random.default_rng(0).normal(size=(50, 3)) * 0.3
    turned = orientations.small_rotations(vector)
    angle = np.arccos((np.trace(turned, axis1=1, axis2=2) - 1) / 2)
    assert angle == pytest.approx(np.linalg.norm(vector, axis=1))
    assert np.einsum("nij,nj->ni", turned, vector) == pytest.approx(vector)


def test_misorientation_knows_the_symmetry_of_the_cube():
    rng = np.random.default_rng(0)
    g, symmetric = orientations.random_rotations(rng, 24), orientations.cubic_rotations()
    assert len(np.unique(symmetric.round(6), axis=0)) == 24
    assert orientations.misorientation_rad(symmetric @ g, g) == pytest.approx(0, abs=1e-6)
    twin = orientations.small_rotations(np.radians(60) * np.ones(3) / np.sqrt(3))
    assert np.degrees(orientations.misorientation_rad(twin @ g, g)) == pytest.approx(60, abs=1e-4)
    assert np.degrees(orientations.misorientation_rad(g[:, None], g[None])).max() < 62.81  # of cubic crystals, Mackenzie 1958


def test_grains_are_connected_and_end_at_five_degrees():
    turn = np.radians([[0, 3, 6, 30, 3], [90, 93, 60, 30, 3]])  # 90 degrees about z is the same cube
    g = orientations.small_rotations(np.stack([0 * turn, 0 * turn, turn], -1))
    found = orientations.grains(g, np.radians(5))
    assert (found == [[0, 0, 0, 1, 2], [0, 0, 3, 1, 2]]).all()


# ------------------------------------------------------------------------------------------------- against nature


@pytest.fixture(scope="session")
def nickel(data_folder):
    """Return the nine real patterns less their background, their orientations, pattern centres, and the real master."""
    folder = data_folder / "kikuchi" / "ccby"
    with h5py.File(folder / "ni_small_kikuchipy.h5") as file:
        scan = file["Scan 1/EBSD"]
        found = [flattened(one - scan["Header/static_background"][()]) for one in scan["Data/patterns"][()].astype(float)]
        centres = np.stack([scan[f"Header/{name}"][()].ravel() for name in ("pcx", "pcy", "pcz")], -1)
        points = scan["CrystalMap/crystal_map/data"]
        euler = np.stack([points[name][()] for name in ("phi1", "Phi", "phi2")], -1)
    return found, orientations.bunge_matrix(euler), centres, specimens.real_master(folder / "ni_master_emsoft_20kv_401.h5")


def test_real_patterns_are_found_where_they_were_indexed(nickel):
    real, g, centres, master = nickel
    rays = [diffraction.detector_rays((60, 60), tuple(centre)) for centre in centres]
    drawn = [flattened(diffraction.project(master, one[None], ray)[0]) for one, ray in zip(g, rays, strict=True)]
    scores = [ncc(one, other) for one, other in zip(real, drawn, strict=True)]
    assert min(scores) > 0.38
    assert max(scores) < 0.51
    wrong = [flattened(diffraction.project(master, one.T[None], ray)[0]) for one, ray in zip(g, rays, strict=True)]
    for others in (wrong, [one[::-1] for one in drawn], [one[:, ::-1] for one in drawn]):
        assert max(abs(ncc(one, other)) for one, other in zip(real, others, strict=True)) < 0.12


def test_kinematic_bands_are_where_dynamical_ones_are(nickel):
    _, g, centres, master = nickel
    own, rays = diffraction.kinematic_master(NICKEL), diffraction.detector_rays((60, 60), tuple(centres[0]))
    pairs = zip(diffraction.project(own, g, rays), diffraction.project(master, g, rays), strict=True)
    assert np.mean([ncc(flattened(one), flattened(other)) for one, other in pairs]) > 0.5


@pytest.mark.slow
def test_real_grains_make_the_map(real):
    (scan,) = find_scans(real)
    truth = pd.read_csv(real / "nickel.truth.csv")
    assert scan.map_shape == (55, 75)
    assert scan.pattern_shape == (60, 60)
    assert (truth[["x", "y"]].to_numpy() == scan.points[["x", "y"]].to_numpy()).all()
    sizes = truth["true_grain"].value_counts()
    assert sizes.iloc[0] > 400
    assert (sizes >= 20).sum() > 25
    # Each grain is of one orientation: its points differ from its neighbours in it by less than 5 degrees.
    g = orientations.bunge_matrix(scan.points[["phi1_rad", "Phi_rad", "phi2_rad"]].to_numpy()).reshape(55, 75, 3, 3)
    assert (orientations.grains(g, np.radians(5)).ravel() == truth["true_grain"]).all()
    # Bands stand out as in the real patterns: 2.7 % of the mean in the best of them.
    extra = pd.concat([extra for _, _, extra in Preprocessing(scan, AssembleKikuchiConfig(name="assemble")).blocks()])
    assert np.corrcoef(extra["image_quality"], truth["true_quality"])[0, 1] > 0.9


def test_real_files_that_are_absent_are_named(tmp_path, monkeypatch):
    monkeypatch.delenv("MICROLATENT_DATA", raising=False)
    with pytest.raises(FileNotFoundError, match=r"kikuchi/ccby/ni_master_emsoft_20kv_401.h5.*Set the environment variable"):
        specimens.simulate_real(tmp_path / "real")
    monkeypatch.setenv("MICROLATENT_DATA", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=rf"are absent from {tmp_path}.*or take data.root=demo"):
        specimens.simulate_real(tmp_path / "real")
    assert not (tmp_path / "real").exists()


# --------------------------------------------------------------------------------------------------- the specimen


def test_same_seed_same_bytes_another_seed_another_specimen(tmp_path):
    keys = {"map_shape": (6, 8), "pattern_px": 24, "num_grains": 3}
    one, again, other = (specimens.simulate(tmp_path / name, seed, **keys) for name, seed in (("a", 0), ("b", 0), ("c", 1)))
    for name in ("demo.h5oina", "demo.truth.csv"):
        first, second, third = (hashlib.sha256((folder / name).read_bytes()).digest() for folder in (one, again, other))
        assert first == second
        assert first != third
    assert specimens.simulate(again, **keys) == again
    with pytest.raises(ValueError, match="Remove the folder or choose another one"):
        specimens.simulate(again, seed=2, **keys)


def test_scan_and_truth_are_of_the_same_points(demo):
    (scan,) = find_scans(demo)
    truth = pd.read_csv(demo / "demo.truth.csv")
    assert (scan.name, scan.map_shape, scan.pattern_shape, scan.quality) == ("demo", (20, 24), (40, 40), "bandcontrast")
    assert scan.elements == {f"element_{name}": "wt%" for name in ("Al", "Fe", "O")}
    assert scan.step_um == (0.1, 0.1)
    assert not scan.background_corrected
    assert (truth[["x", "y"]].to_numpy() == scan.points[["x", "y"]].to_numpy()).all()
    assert (scan.points["phase"].map(scan.phases) == truth["true_phase"]).all()


def test_patterns_show_the_orientation_that_the_file_gives(demo):
    (scan,) = find_scans(demo)
    truth = pd.read_csv(demo / "demo.truth.csv")
    pure = np.flatnonzero((truth["true_overlap"] < 0.01) & (truth["true_quality"] > 0.6))[::20]
    rays = diffraction.detector_rays(scan.pattern_shape, specimens.CENTRE)
    g = orientations.bunge_matrix(scan.points.loc[pure, ["phi1_rad", "Phi_rad", "phi2_rad"]].to_numpy())
    masters = [diffraction.kinematic_master(one) for one in specimens.CRYSTALS]
    expected = specimens.bands_of(masters, scan.points.loc[pure, "phase"].to_numpy() - 1, g, rays)
    background = scan.static_background.astype(float)
    found = [ncc(flattened(one - background), flattened(other)) for one, other in zip(scan.read(pure), expected, strict=True)]
    assert np.median(found) > 0.6


def test_image_quality_and_band_contrast_follow_the_hidden_quality(demo):
    (scan,) = find_scans(demo)
    truth = pd.read_csv(demo / "demo.truth.csv")["true_quality"]
    blocks = Preprocessing(scan, AssembleKikuchiConfig(name="assemble")).blocks()
    extra = pd.concat([extra for _, _, extra in blocks], ignore_index=True)
    assert not extra["bad"].any()
    assert np.corrcoef(scan.points["bandcontrast"], truth)[0, 1] > 0.95
    assert np.corrcoef(extra["image_quality"], truth)[0, 1] > 0.75
    assert np.corrcoef(extra["neighbour_similarity"], truth)[0, 1] > 0.6


def test_patterns_mix_where_grains_meet():
    maps = specimens.draw_maps(0, (30, 40), 8)
    boundary = np.zeros((30, 40), bool)
    boundary[:, 1:] |= maps.grain[:, 1:] != maps.grain[:, :-1]
    boundary[:, :-1] |= boundary[:, 1:]
    assert maps.overlap.max() <= 0.5
    assert maps.overlap[boundary].mean() > 10 * np.median(maps.overlap)
    assert maps.quality[boundary].mean() < 0.8 * maps.quality[maps.overlap < 0.01].mean()
    assert len(np.unique(maps.grain)) == 8


def test_grains_bend_a_little():
    maps = specimens.draw_maps(0, (30, 40), 8)
    same = maps.grain[:, 1:] == maps.grain[:, :-1]
    step = orientations.misorientation_rad(maps.orientation[0][:, 1:], maps.orientation[0][:, :-1])[same]
    assert 0 < np.degrees(step).mean() < 0.5


def test_elements_are_those_of_the_phases():
    maps = specimens.draw_maps(0, (48, 64), 24)
    pure = maps.overlap < 0.001
    for number, crystal in enumerate(specimens.CRYSTALS):
        there = pure & (maps.phase[maps.grain] == number)
        for name in ("Fe", "O"):
            assert maps.elements[name][there].mean() == pytest.approx(crystal.weight_percent[name], abs=0.3)


def test_aluminium_depends_on_nothing_else():
    first, second = specimens.draw_maps(3, (30, 40), 8), specimens.draw_maps(3, (30, 40), 13)
    assert (first.grain != second.grain).any()
    assert np.array_equal(first.elements["Al"], second.elements["Al"])  # of its own random numbers
    found = []
    for seed in range(60):
        maps = specimens.draw_maps(seed, (30, 40), 8)
        others = (maps.quality, maps.elements["O"], maps.bandcontrast, maps.orientation[0][..., 2, 2], maps.grain)
        found.append([np.corrcoef(maps.elements["Al"].ravel(), other.ravel())[0, 1] for other in others])
    found = np.array(found)
    found = found[np.isfinite(found).all(1)]
    assert (np.abs(found.mean(0)) < 3.5 * found.std(0) / np.sqrt(len(found))).all()
    assert found.std(0).min() > 2 / np.sqrt(30 * 40)  # smooth as it is, single maps do correlate: what nulls are for
