"""A retrained release keeps what its parent was published with: no kind of data file is forgotten."""

from edgefleet_cli.release.conversion.conversion_options import DATA_KINDS
from edgefleet_cli.retraining.result_files import DATA_FILES, OF_THE_PARENT


def test_every_kind_of_data_has_a_file_name_and_all_but_answers_are_kept() -> None:
    assert DATA_FILES.keys() == set(DATA_KINDS) - {"recipe"}
    assert DATA_FILES.keys() - {"golden"} == OF_THE_PARENT
