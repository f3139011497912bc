"""The page of data sets: how each stands, for all models and for one, and where it is linked."""

from edgefleet_protocol.ids import ModelName
from edgefleet_server.access.model import Role
from edgefleet_server.telemetry.predictions import store
from edgefleet_server.telemetry.predictions.data_set_book import NewDataSet
from tests.server.dashboard.fleet import ORT, Fleet
from tests.server.dashboard.shelf import shelve
from tests.server.dashboard.test_pages import part_of


def test_data_sets_are_listed_with_how_they_stand(fleet: Fleet) -> None:
    look = fleet.browser(Role.VIEWER)
    assert "edgectl data export MODEL" in look.get("/data-sets").text
    book = fleet.parts.erasures.data_sets
    names = {}
    for n, (model, place, run) in enumerate(
        [("digits", "ann:/data/fog", ""), ("digits", "s3://b/<i>", "rt-1"), ("hall", "bob:/x", "")]
    ):
        records = [("d-1", f"r{n}{k}", f"t{n}{k}") for k in range(2)]
        names[place] = book.add(NewDataSet(ModelName(model), f"{n}" * 64, "npz", place, run, records), "ann (u-1)").id
        fleet.house.clock.turn(seconds=1)
    with fleet.parts.db.session() as session:
        store.mark_records(session, "e-1", "d-1", ["t00", "t10", "t11"])
    book.purge(names["s3://b/<i>"], "e-1", "a" * 64, "ann", 2)
    page = look.get("/data-sets").text
    told = part_of(page, "data-sets")
    assert "1 to purge" in told
    assert f"{names['ann:/data/fog']} npz, just now digits 2 holds an erased subject 1 record to remove" in told
    assert f"{names['s3://b/<i>']} npz, just now digits 0 purged" in told
    assert f"{names['bob:/x']} npz, just now hall 2 there bob:/x ann (u-1)" in told
    assert told.index("bob:/x") < told.index("s3://b/<i>") < told.index("ann:/data/fog"), "the newest first"
    assert 'href="/retraining/rt-1"' in page
    assert "bob:/x" not in part_of(look.get("/data-sets?model=digits").text, "data-sets")
    shelve(fleet, "digits@1.0.0", ORT)
    assert 'href="/data-sets?model=digits"' in look.get("/models/digits").text
