from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from hpo_lib.assessment.run import findings
from hpo_lib.assessment.worth import check_final, final_gain
from tests.assessment.studies import final_frame, lr_bowl, new_study, searched

DEFAULT = (0.111, 0.108, 0.109, 0.110, 0.107)
TUNED = (0.092, 0.090, 0.093, 0.089, 0.091)


def worth(final):
    return findings(new_study(), final=final)[0]


def test_a_gain_is_shown_with_its_interval_and_sizes():
    finding = worth(final_frame(DEFAULT, TUNED))
    assert finding.status == "PASS"
    assert finding.sentence.startswith(
        "Tuning lowered the test error by 1.8 points (95 %: 1.2 to 2.4; 5 seeds, 10,000 images): "
        "9.1 % instead of 10.9 %."
    )


def test_a_loss_is_a_warning_with_a_positive_interval():
    finding = worth(final_frame(TUNED, DEFAULT))
    assert finding.status == "WARN"
    assert "raised the test error by 1.8 points (95 %: 1.2 to 2.4;" in finding.sentence


def test_equal_errors_show_nothing_and_say_what_it_would_take():
    finding = worth(final_frame((0.10, 0.12, 0.09), (0.11, 0.09, 0.10), 10**6))
    assert finding.status == "CAN'T SAY"
    assert "No gain can be shown" in finding.sentence
    needed = finding.figures["seeds_needed"]
    assert f"about {needed} seeds" in finding.sentence
    assert needed > 3


def test_with_endless_images_the_interval_is_that_of_the_paired_t_test():
    gain = final_gain(final_frame(DEFAULT, TUNED, 10**12))
    expected = stats.ttest_rel(DEFAULT, TUNED).confidence_interval()
    np.testing.assert_allclose((gain.low, gain.high), expected, rtol=1e-6)


def test_few_images_make_the_same_errors_uncertain():
    assert worth(final_frame(DEFAULT, TUNED, 300)).status == "CAN'T SAY"
    gain = final_gain(final_frame(DEFAULT, TUNED, 300))
    assert gain.seeds_needed is None


def test_one_seed_and_no_final_trainings_say_how_to_get_more():
    assert "at least 3 seeds" in worth(final_frame([0.2], [0.1])).sentence
    nothing = worth(None)
    assert nothing.status == "CAN'T SAY"
    assert "`final`" in nothing.sentence


def test_only_seeds_of_both_configurations_count():
    final = final_frame(DEFAULT, TUNED[:3])
    assert final_gain(final).n_seeds == 3
    final.loc[0, "test_error"] = np.nan  # a training that failed
    assert final_gain(check_final(final)).n_seeds == 2


def test_the_cost_is_compared_with_an_untuned_training():
    study = searched(lr_bowl, 4, validation_error=[0.3, 0.2], seconds=[3.0, 3.0])
    finding = findings(study, final=final_frame(DEFAULT, TUNED))[0]
    assert finding.figures["search_trainings"] == 4
    assert finding.figures["search_epochs"] == 8
    assert finding.sentence.endswith("24 s, as long as 1.2 trainings of the default.")


def test_short_trainings_are_counted_in_epochs_as_their_seconds_are_those_of_starting():
    study = searched(lr_bowl, 4, validation_error=[0.3, 0.2], seconds=[3.0, 3.0])
    final = final_frame(DEFAULT, TUNED).assign(seconds=2.0, epochs=4)
    sentence = findings(study, final=final)[0].sentence
    assert sentence.endswith("8 epochs and 24 s, as many epochs as 2.0 trainings of the default.")


def test_functions_without_epochs_are_evaluated():
    study = searched(lr_bowl, 4, validation_error=[0.3], seconds=[3.0])
    assert findings(study)[0].sentence.endswith("The search cost 4 evaluations and 12 s.")


def test_retrainings_are_part_of_the_cost():
    study = searched(lr_bowl, 4, validation_error=[0.3, 0.2], seconds=[3.0, 3.0])
    rows = [{"trial": 1, "n": 3, "mean": 0.1}, {"trial": 2, "n": 0, "mean": np.nan}]
    retrained = pd.DataFrame(rows).assign(optimism=0.0, standard_error=0.1)
    finding = findings(study, final=final_frame(DEFAULT, TUNED), retrained=retrained)[0]
    text = "The search cost 4 trainings and 3 retrainings, 14 epochs and 42 s, as long as 2.1"
    assert text in finding.sentence


def test_seconds_per_training_are_named_where_they_differ():
    study = searched(lr_bowl, 4, validation_error=[0.3, 0.2], seconds=[3.0, 3.0])
    final = final_frame(DEFAULT, TUNED)
    final["seconds"] = final["seconds"].where(final["configuration"] == "default", 41.0)
    final.loc[0, "seconds"] = 500.0  # the first one loads libraries
    sentence = findings(study, final=final)[0].sentence
    assert sentence.endswith("A training takes 41 s tuned and 20 s by default.")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_test": 0}, "n_test of final must lie between 1 and inf, got 0"),
        ({"test_error": 12.0}, "test_error of final must lie between 0 and 1, got 12"),
        ({"test_error": "low"}, "Unable to parse string"),
        ({"configuration": "best"}, r"trainings of \['default', 'tuned'\] .* got \['best'\]"),
    ],
)
def test_final_trainings_that_cannot_be_used_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        findings(new_study(), final=final_frame(DEFAULT, TUNED).assign(**change))


def test_a_missing_column_is_named():
    with pytest.raises(ValueError, match="got no seconds"):
        findings(new_study(), final=final_frame(DEFAULT, TUNED).drop(columns="seconds"))
