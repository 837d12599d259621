"""A generated corpus in YouTube-8M's frame-level format, for the demo and the tests: learnable, but not by averaging.

A frame shows *words*, directions in the feature space of `rgb` or of `audio`, over noise. A label shows as a
conjunction: the two words of one of its looks in the same frames, in one or more parts of the video. In the remaining
frames words occur alone, the labels' own words among them. So the mean of a video's frames tells which words occur, but
not which occur together. Some labels can only be seen (two rgb words), some only be heard (two audio words), and some
need both. Label frequencies follow a Zipf law, and some labels that show are not annotated.

Not realistic: words do not move, parts of one video are independent, and every label is equally hard.
The corpus is fixed by the configuration: a shard depends on the numbers, the seed and its own place alone.

GAP on eval/ with the default numbers, trained on train/ for minutes on one core: regularised mean pooling + logistic
0.52, small NetVLAD 0.75, small NetFV 0.77, small DBoF 0.63.

Legend: B videos, N frames of a shard, P parts, W words of both modalities, D feature size, K looks a class, C classes.
"""

import csv
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from vidfit.errors import OutputError
from vidfit.features.example import to_sequence_example
from vidfit.features.spec import Video
from vidfit.features.tfrecord import write_records
from vidfit.files import cannot_write, temporary
from vidfit.progress import OnCount, uncounted

_KINDS = ("seen", "heard", "both")


class CorpusConfig(BaseModel):
    """Every number of a generated corpus."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    seed: int = Field(default=0, ge=0, description="of everything random")
    train_videos: int = Field(default=3000, ge=1, description="videos in train/")
    validation_videos: int = Field(default=600, ge=1, description="videos in validation/")
    eval_videos: int = Field(default=800, ge=1, description="videos in eval/")
    videos_per_shard: int = Field(
        default=100, ge=1, description="videos in a shard; the last one of a split may hold fewer"
    )
    classes: int = Field(default=48, ge=3, description="labels in the vocabulary; a third each is seen, heard, or both")
    zipf: float = Field(
        default=0.9, ge=0, description="exponent s of the label frequencies, which go as rank^-s; 0 is uniform"
    )
    labels_per_video: float = Field(default=2.5, ge=1, le=4, description="mean labels of a video, at least one each")
    max_labels: int = Field(default=8, ge=1, description="labels of a video at most")
    missing_labels: float = Field(
        default=0.05, ge=0, lt=1, description="share of the labels shown that is not annotated"
    )
    min_frames: int = Field(default=10, ge=1, description="frames of the shortest video")
    max_frames: int = Field(default=40, ge=1, description="frames of the longest video")
    rgb_size: int = Field(default=1024, ge=2, description="values of a frame's rgb feature")
    audio_size: int = Field(default=128, ge=2, description="values of a frame's audio feature")
    rgb_words: int = Field(default=14, ge=2, description="directions that a frame can show in rgb")
    audio_words: int = Field(default=10, ge=2, description="directions that a frame can show in audio")
    looks: int = Field(default=2, ge=1, description="different pairs of words by which a label can show")
    part_frames: int = Field(default=6, ge=1, description="frames for which a label shows, at most the whole video")
    distractor_frames: int = Field(default=2, ge=1, description="frames for which a word shows alone")
    distractors: float = Field(
        default=0.9, ge=0, le=1, description="share of the frames outside the parts that show a word"
    )
    rgb_strength: float = Field(default=5.0, ge=0, description="length of an rgb word's vector in a frame, on average")
    audio_strength: float = Field(
        default=3.5, ge=0, description="length of an audio word's vector in a frame, on average"
    )
    variation: float = Field(default=0.3, ge=0, le=1, description="a word's strength varies by this share, up and down")
    noise: float = Field(default=0.3, ge=0, description="standard deviation of a value's noise; values lie in [-2, 2]")
    decay: float = Field(
        default=0.2, ge=0, description="exponent of the fall of variance over dimensions, as after a PCA"
    )

    @model_validator(mode="after")
    def _possible(self) -> "CorpusConfig":
        if self.min_frames > self.max_frames:
            raise ValueError(f"min_frames {self.min_frames} is above max_frames {self.max_frames}")
        for kind, pairs in zip(_KINDS, _word_pairs(self), strict=True):
            needed = len(range(_KINDS.index(kind), self.classes, len(_KINDS))) * self.looks
            if needed > len(pairs):
                raise ValueError(
                    f"{needed} looks of labels that are {kind} need as many pairs of words and there are {len(pairs)}; "
                    "add words, or take fewer classes or looks"
                )
        return self


def write_corpus(directory: Path, config: CorpusConfig, on_count: OnCount = uncounted) -> None:
    """Writes `train/`, `validation/` and `eval/` shards and `vocabulary.csv` (label_id,label_name).

    Arguments:
        directory: must not exist, or be empty; it is made, or filled, only once the corpus is complete.
        config: what to generate.
        on_count: called with (videos written, videos in all) after each shard.

    Raises:
        OutputError: `directory` holds something, or cannot be written.
    """
    directory = Path(directory).resolve()
    splits = {"train": config.train_videos, "validation": config.validation_videos, "eval": config.eval_videos}
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise OutputError(f"{directory}: exists and is not an empty folder; choose another or remove it")
    with temporary(directory.parent) as unfinished:
        try:
            world = _World(config)
            written = 0
            for number, (split, videos) in enumerate(splits.items()):
                (unfinished / split).mkdir(parents=True)
                for shard, first in enumerate(range(0, videos, config.videos_per_shard)):
                    count = min(config.videos_per_shard, videos - first)
                    random = np.random.default_rng((config.seed, number + 1, shard))
                    records = map(to_sequence_example, _videos(world, random, split, first, count))
                    write_records(unfinished / split / f"{split}{shard:03}.tfrecord", records)
                    written += count
                    on_count(written, sum(splits.values()))
            with (unfinished / "vocabulary.csv").open("w", newline="", encoding="utf-8") as file:
                writer = csv.writer(file)
                writer.writerow(("label_id", "label_name"))
                writer.writerows((label, f"{_kind(label)} {label}") for label in range(config.classes))
            if directory.exists():
                # Not replaced: it may be where somebody works. The vocabulary goes last.
                for part in sorted(unfinished.iterdir()):
                    part.rename(directory / part.name)
            else:
                unfinished.replace(directory)
        except (OSError, OutputError) as error:
            # The user knows the folder's name, and not that of the file within.
            cause = error if isinstance(error, OSError) else error.__cause__
            if not isinstance(cause, OSError):
                raise
            raise cannot_write(directory, cause) from error


class _World:
    """What all shards share.

    Attributes:
        words_WD: direction of each word, the rgb words first, zero in the other modality's columns.
        strength_W: mean length of each word's vector in a frame.
        looks_CK2: the two words of each look of each class.
        log_frequency_C: logarithm of the classes' weights, unnormalised.
        noise_D: standard deviation of each value's noise.
    """

    def __init__(self, config: CorpusConfig) -> None:
        self.config = config
        random = np.random.default_rng((config.seed, 0))
        rgb_D = _spectrum(config.rgb_size, config.decay)
        audio_D = _spectrum(config.audio_size, config.decay)
        self.noise_D = (config.noise * np.concatenate([rgb_D, audio_D])).astype(np.float32)
        self.words_WD = np.zeros((config.rgb_words + config.audio_words, len(self.noise_D)), np.float32)
        self.words_WD[: config.rgb_words, : config.rgb_size] = _directions(random, config.rgb_words, rgb_D)
        self.words_WD[config.rgb_words :, config.rgb_size :] = _directions(random, config.audio_words, audio_D)
        self.strength_W = np.repeat(
            np.array([config.rgb_strength, config.audio_strength], np.float32), [config.rgb_words, config.audio_words]
        )
        self.looks_CK2 = np.empty((config.classes, config.looks, 2), np.int64)
        for offset, pairs in enumerate(_word_pairs(config)):
            chosen = self.looks_CK2[offset :: len(_KINDS)]
            chosen[:] = random.permutation(pairs)[: len(chosen) * config.looks].reshape(chosen.shape)
        self.log_frequency_C = -config.zipf * np.log(np.arange(1, config.classes + 1))


def _kind(label: int) -> str:
    return _KINDS[label % len(_KINDS)]


def _word_pairs(config: CorpusConfig) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Every pair of two rgb words, of two audio words, and of one each; `[pairs, 2]`."""
    rgb = np.stack(np.triu_indices(config.rgb_words, k=1), axis=1)
    audio = np.stack(np.triu_indices(config.audio_words, k=1), axis=1) + config.rgb_words
    seen, heard = np.divmod(np.arange(config.rgb_words * config.audio_words), config.audio_words)
    return rgb, audio, np.stack([seen, heard + config.rgb_words], axis=1)


def _spectrum(size: int, decay: float) -> np.ndarray:
    """Falling standard deviations with a mean square of 1."""
    deviations_D = np.arange(1, size + 1) ** -decay
    return deviations_D / np.sqrt(np.mean(deviations_D**2))


def _directions(random: np.random.Generator, words: int, spectrum_D: np.ndarray) -> np.ndarray:
    directions_WD = random.standard_normal((words, len(spectrum_D))) * spectrum_D
    return directions_WD / np.linalg.norm(directions_WD, axis=1, keepdims=True)


def _videos(world: _World, random: np.random.Generator, split: str, first: int, count: int) -> Iterator[Video]:
    """The videos of one shard, generated together."""
    config = world.config
    lengths_B = random.integers(config.min_frames, config.max_frames + 1, count)
    starts_B = np.cumsum(lengths_B) - lengths_B
    labels_BC = _draw_labels(world, random, count)
    bytes_ND = _frames(world, random, lengths_B, starts_B, labels_BC)
    annotated_BC = labels_BC & (random.random(labels_BC.shape) >= config.missing_labels)
    for video in range(count):
        own_TD = bytes_ND[starts_B[video] : starts_B[video] + lengths_B[video]]
        frames = {"rgb": own_TD[:, : config.rgb_size], "audio": own_TD[:, config.rgb_size :]}
        yield Video(f"{split}{first + video:06}", frames, np.flatnonzero(annotated_BC[video]))


def _draw_labels(world: _World, random: np.random.Generator, count: int) -> np.ndarray:
    """`[B, C]` bool: without replacement, by the classes' frequencies (the Gumbel top-k trick)."""
    config = world.config
    counts_B = np.minimum(
        1 + random.poisson(config.labels_per_video - 1, count), min(config.max_labels, config.classes)
    )
    keys_BC = world.log_frequency_C + random.gumbel(size=(count, config.classes))
    ranks_BC = (-keys_BC).argsort(axis=1).argsort(axis=1)
    return ranks_BC < counts_B[:, None]


def _frames(
    world: _World, random: np.random.Generator, lengths_B: np.ndarray, starts_B: np.ndarray, labels_BC: np.ndarray
) -> np.ndarray:
    """`[N, D]` uint8 frames of all videos, one after another."""
    config = world.config
    total = int(lengths_B.sum())
    words = len(world.words_WD)
    # Frames of the same run show the same word: a run is `distractor_frames` long within its video.
    video_N = np.repeat(np.arange(len(lengths_B)), lengths_B)
    place_N = np.arange(total) - starts_B[video_N]
    longest = -(-config.max_frames // config.distractor_frames)
    run_words = random.integers(words, size=(len(lengths_B), longest))
    shown = random.random(run_words.shape) < config.distractors
    run_N = place_N // config.distractor_frames
    active_NW = np.zeros((total, words), np.float32)
    active_NW[np.arange(total), run_words[video_N, run_N]] = shown[video_N, run_N]
    # Parts replace what the frames showed, so that words of different runs never meet there.
    video_P, class_P = np.nonzero(labels_BC)
    part_lengths_P = np.minimum(config.part_frames, lengths_B[video_P])
    part_starts_P = starts_B[video_P] + random.integers(lengths_B[video_P] - part_lengths_P + 1)
    looks_P2 = world.looks_CK2[class_P, random.integers(config.looks, size=len(class_P))]
    offsets = np.arange(part_lengths_P.sum()) - np.repeat(np.cumsum(part_lengths_P) - part_lengths_P, part_lengths_P)
    rows = np.repeat(part_starts_P, part_lengths_P) + offsets
    active_NW[rows] = 0
    for side in (0, 1):
        active_NW[rows, np.repeat(looks_P2[:, side], part_lengths_P)] = 1
    active_NW *= world.strength_W * (1 + config.variation * random.uniform(-1, 1, active_NW.shape).astype(np.float32))
    values_ND = random.standard_normal((total, len(world.noise_D)), np.float32) * world.noise_D
    values_ND += active_NW @ world.words_WD
    # The inverse of x * 4/255 + 4/512 - 2.
    return np.clip(np.rint((values_ND + 2 - 4 / 512) * (255 / 4)), 0, 255).astype(np.uint8)
