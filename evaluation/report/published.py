"""The paper's figures (Tables 3 and 4), measured on the challenge's validation set and not on our cases."""

from evaluation.results import Scores

PAPER = "the paper"

TABLE_3: dict[str, dict[str, Scores]] = {
    "CT": {
        "SAM-Med3D": Scores(2.2408, 2.2213, 0.5590, 0.5558),
        "VISTA3D": Scores(3.1689, 3.2652, 0.8041, 0.8344),
        "SegVol": Scores(2.9809, 3.1235, 0.7452, 0.7809),
        "nnInteractive": Scores(3.4337, 3.5743, 0.8764, 0.9165),
        PAPER: Scores(3.2197, 3.3272, 0.8197, 0.8511),
    },
    "MRI": {
        "SAM-Med3D": Scores(1.5222, 1.5226, 0.3903, 0.3964),
        "VISTA3D": Scores(2.5895, 2.9683, 0.6545, 0.7493),
        "SegVol": Scores(2.6719, 3.1535, 0.6680, 0.7884),
        "nnInteractive": Scores(2.6975, 3.0292, 0.7302, 0.8227),
        PAPER: Scores(1.5944, 1.6136, 0.4222, 0.4254),
    },
    "Microscopy": {
        "SAM-Med3D": Scores(0.1163, 0.0, 0.0291, 0.0),
        "VISTA3D": Scores(2.1196, 3.2259, 0.5478, 0.8243),
        "SegVol": Scores(1.6846, 2.9716, 0.4211, 0.7429),
        "nnInteractive": Scores(2.3311, 3.1109, 0.5943, 0.7890),
        PAPER: Scores(2.9475, 3.8109, 0.7531, 0.9606),
    },
    "PET": {
        "SAM-Med3D": Scores(2.1304, 1.7250, 0.5344, 0.4560),
        "VISTA3D": Scores(2.6398, 2.3998, 0.6779, 0.6227),
        "SegVol": Scores(2.9683, 2.8563, 0.7421, 0.7141),
        "nnInteractive": Scores(3.1877, 3.0722, 0.8156, 0.7915),
        PAPER: Scores(3.2278, 3.0727, 0.8186, 0.7841),
    },
    "Ultrasound": {
        "SAM-Med3D": Scores(1.4347, 1.9176, 0.4102, 0.5435),
        "VISTA3D": Scores(2.8655, 2.8441, 0.8105, 0.8079),
        "SegVol": Scores(1.2438, 1.8045, 0.3109, 0.4511),
        "nnInteractive": Scores(3.3481, 3.3236, 0.8547, 0.8494),
        PAPER: Scores(3.5364, 3.6196, 0.8946, 0.9165),
    },
}
"""Modality, method, scores."""

ABSTRACT = Scores(2.4799, 2.5671, 0.6385, 0.6614)
"""The paper's averages over all cases of the validation set, with boxes and without, from its abstract."""

TABLE_4: dict[tuple[str, bool], Scores] = {
    ("CT", False): Scores(0.1850, 0.1443, 0.0626, 0.0514),
    ("CT", True): Scores(3.3032, 3.4147, 0.8405, 0.8731),
    ("MRI", False): Scores(0.4882, 0.2161, 0.1535, 0.0811),
    ("MRI", True): Scores(3.1438, 3.5708, 0.7987, 0.9077),
    ("Microscopy", True): Scores(2.9476, 3.8110, 0.7532, 0.9607),
    ("PET", True): Scores(3.2278, 3.0727, 0.8186, 0.7841),
    ("Ultrasound", True): Scores(3.5364, 3.6197, 0.8947, 0.9165),
}
"""Modality and whether there was a box, the paper's scores."""

TABLE_4_OVERALL: dict[bool, Scores] = {
    True: Scores(3.2550, 3.4774, 0.8276, 0.8863),
    False: Scores(0.4759, 0.2132, 0.1499, 0.0799),
}
"""Whether there was a box, the paper's means over all cases."""
