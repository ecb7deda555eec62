"""Recognise a benchmark by the file names and identities of its images, independently of its folder.

Only Market-1501, DukeMTMC-reID and MSMT17 are recognised. DukeMTMC-reID and MSMT17 have distinctive file names. Other
data sets use Market-1501's file names too, so its identities are compared as well. Parts of these benchmarks, and data
sets made of their images (Occluded-Duke), are recognised. Renamed images are not.
"""

import re
from re import Pattern

from osnet.types import DISTRACTOR_PID, ReidDataset

MARKET_NAME = re.compile(r"\d{4}_c[1-6]s[1-6]_\d{6}_\d{2}\..+")
MARKET_PEOPLE = int(
    "2e6d7e71127b1553d8a38f740afc59c7cec7bdba52231ca5de6c25bdb7db498be29237e1dfac9ddff0dc5b1effab2d27"
    "c033c096bc267bfe64dd3c3571e3601222b6417190e106dbbf53f40a0313666e3530e25cab4ab9b3e4e5878f1852ce93"
    "99afba400cfcd1c991004c58458f26078748cad743878251e4bccb05cf66b788d6aaf4f189d096471063189824307d1a"
    "86c3460599c350ff794ccad730d14afc1ea4a955bcc04d2a3f0f062d518320e15aa94f84f4ce33d6a72fe37a",
    16,
)
"""Bit n is set if person n is one of the 750 people in Market-1501's test (v15.09.15). The other 751 of the people 1
to 1501 are in its training part."""
MARKET_LAST = 1501
MARKET_FEW = 20
"""Minimum number of people. Fewer could agree by chance, because many data sets use Market-1501's file names."""
DISTINCT: dict[str, Pattern[str]] = {
    "dukemtmcreid": re.compile(r"\d{4}_c[1-8]_f\d{7}\..+"),
    "msmt17": re.compile(r"\d{4}_\d{3}_\d{2}_\d{4}(morning|noon|afternoon)_\d{4}_\d+(_ex)?\..+"),
}
"""Patterns of file names that only this benchmark has."""


def identify_benchmark(dataset: ReidDataset) -> str | None:
    """Name the benchmark that at least half of the query and gallery images belong to, or None.

    If the data set has no query and gallery, the training images decide. Junk and distractors do not count.
    """
    tested = [crop for split in (dataset.query, dataset.gallery) for crop in split.crops]
    names = [crop.path.name for crop in tested or dataset.train.crops if crop.pid > DISTRACTOR_PID]
    for benchmark, pattern in DISTINCT.items():
        if names and 2 * sum(bool(pattern.fullmatch(name)) for name in names) >= len(names):
            return benchmark
    fitting = [name for name in names if MARKET_NAME.fullmatch(name)]
    people = {int(name[:4]) for name in fitting} - {DISTRACTOR_PID}
    known = all(pid <= MARKET_LAST and bool(MARKET_PEOPLE >> pid & 1) == bool(tested) for pid in people)
    return "market1501" if known and len(people) >= MARKET_FEW and 2 * len(fitting) >= len(names) else None
