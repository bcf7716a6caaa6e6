"""The configuration: one pydantic tree, the same shape as cluster.yaml.

Every key has a default that fits a 2-core machine. Unknown keys and wrong values are refused by
`config_file.py`, which knows the lines they stand on.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from streamrec_dist.baselines.config import (
    TRAINED,
    AttentionConfig,
    BaselinesConfig,
    ItemModelConfig,
    TigerConfig,
    section_name,
)
from streamrec_dist.cluster_config import ClusterConfig as ClusterConfig
from streamrec_dist.data.formats import Format
from streamrec_dist.errors import UsageError
from streamrec_dist.section import Epochs, Optimiser, Section


class DataConfig(Section):
    """Which interactions to learn from."""

    path: str | None = None
    format: Format = "demo"
    max_history: int = Field(20, ge=1, le=1000)

    @model_validator(mode="after")
    def _path_unless_demo(self) -> DataConfig:
        if self.format != "demo" and not self.path:
            raise ValueError(f"a data set of format {self.format} needs data.path: the folder it lies in")
        return self


class BehaviourConfig(Section):
    """What users take one after the other, as part of the vectors that become semantic ids."""

    weight: float = Field(1.5, ge=0, description="say in a distance, against 1 of the texts; 0: texts alone")
    dim: int = Field(64, ge=1, le=1024)
    alignment: float = Field(0.0, ge=0, description="weight of the contrast of codes with behaviour")


class ItemsConfig(Section):
    """How items become semantic ids."""

    encoder: str = "sentence-transformers/all-MiniLM-L6-v2"
    backend: Literal["sentence-transformers", "transformers", "vllm"] = "sentence-transformers"
    pca: int | None = Field(None, ge=1, description="principal components of the embeddings that are kept")
    whiten: bool = Field(False, description="give every component the same spread")
    behaviour: BehaviourConfig = BehaviourConfig()
    ids: str | None = Field(None, description="a file of ids made elsewhere, taken instead of making them")
    method: Literal["rqvae", "kmeans"] = "rqvae"
    levels: int = Field(4, ge=2, le=8)
    codes: int = Field(256, ge=2, le=8192)
    distance: Literal["l2", "cosine"] = "l2"
    balance: float = Field(0.0, ge=0, description="entropy of Sinkhorn balancing in training; 0: none")
    collisions: Literal["digit", "sinkhorn"] = "sinkhorn"
    neighbours: int = Field(50, ge=1, le=1000, description="text neighbours kept for each item")


class ModelConfig(Section):
    """The T5-like backbone (section 3.1.4 of the paper)."""

    d_model: int = Field(256, ge=8)
    layers: int = Field(4, ge=1, description="encoder layers, and decoder layers")
    heads: int = Field(4, ge=1)
    d_head: int = Field(64, ge=4)
    d_ff: int = Field(1024, ge=8)
    dropout: float = Field(0.1, ge=0, lt=1)
    evidence: int = Field(
        64,
        ge=0,
        description="items that stage retrieve names as evidence for the thinking decoder; 0: no such stage",
    )
    direct_evidence: bool = Field(
        False, description="give it to the direct decoder too, which then is no TIGER"
    )
    softmax: Literal["trie", "codes"] = Field(
        "trie",
        description="what a code of an item competes with: trie: those that go on along some item's id; codes: all "
        "codes, as in the papers",
    )
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="arithmetic of training and decoding; auto: bf16 where the hardware has it"
    )


def _whole_above_one(gpus: float) -> float:
    if gpus > 1 and gpus != int(gpus):
        raise ValueError("a process takes a share of one GPU, or whole GPUs")
    return gpus


#: The training ranks, as a role.
LEARNERS = "learners"
#: Of one role: more than any cluster has use for. What finds no room waits, and Ray holds a place for each of them.
MOST_PROCESSES = 1_000
#: GPUs of one process. auto: those of the cluster are shared out (actors/placement.py), none where there are none.
Gpus = Annotated[float, Field(ge=0), AfterValidator(_whole_above_one)] | Literal["auto"]


class ActorConfig(Section):
    """A pool of Ray actors of one role; `cpus` and `gpus` are for each replica."""

    replicas: int = Field(1, ge=1, le=MOST_PROCESSES)
    minimum: int = Field(
        1, ge=1, description="replicas without which a run does not go on; the others may come later"
    )
    cpus: float = Field(0.2, ge=0)
    gpus: Gpus = "auto"


class EmbedderConfig(ActorConfig):
    """Embedding, beside which nothing else computes."""

    cpus: float = Field(1.0, ge=0)


class TwinConfig(ActorConfig):
    """A role with a replica for each of two cores."""

    replicas: int = Field(2, ge=1, le=MOST_PROCESSES)


class ActorsConfig(Section):
    """The stateless roles. Each replica computes with as many threads as it has whole CPUs, at least one."""

    embed: EmbedderConfig = EmbedderConfig()
    annotate: TwinConfig = TwinConfig()
    rollout: TwinConfig = TwinConfig()
    reward: ActorConfig = ActorConfig()
    evaluate: TwinConfig = TwinConfig()


class LearnersConfig(Section):
    """The DDP group; `cpus` and `gpus` are for each rank."""

    world_size: int = Field(2, ge=1, le=MOST_PROCESSES)
    minimum: int | None = Field(
        None, ge=1, description="ranks to go on with where the cluster has lost room; default: world_size"
    )
    cpus: float = Field(0.3, ge=0)
    gpus: Gpus = "auto"
    backend: Literal["auto", "gloo", "nccl"] = Field(
        "auto", description="auto: nccl where every rank has a GPU of its own, gloo elsewhere"
    )
    transport: Literal["store", "collective"] = Field(
        "store", description="how weights get to rollout actors: by the object store, or broadcast"
    )
    compile: bool = Field(False, description="fuse what lies between matrix products (torch.compile)")
    pass_tokens: int | None = Field(
        None, ge=1, description="history tokens of one pass; a larger batch accumulates gradients"
    )


class TokenizeConfig(Section):
    """Stage 0: the RQ-VAE."""

    epochs: int = Field(200, ge=1)
    batch: int = Field(256, ge=2)
    lr: float = Field(3e-3, gt=0, lt=1)
    latent: int = Field(32, ge=2)
    hidden: tuple[int, ...] = (512, 256, 128)


class RetrieveConfig(AttentionConfig):
    """The retriever, whose items are the evidence for the stages after it."""

    lr: float = Field(2e-3, gt=0, lt=1)
    epochs: int = Field(6, ge=1)
    patience: int = Field(2, ge=1, description="evaluations without a better validation NDCG@10")
    reranked: int = Field(128, ge=0, description="best items whose scores a second look corrects; 0: none")
    folds: int = Field(3, ge=2, description="a training row gets its evidence from users of other folds")


class PretrainConfig(Epochs):
    """Stage 1: long targets, and the direct decoder beside them."""

    retrieved: int = Field(2, ge=0, description="text neighbours put before the target")
    temperature: float = Field(1.0, gt=0)
    history_dropout: float = Field(0.0, ge=0, lt=1, description="share of history items left out in training")


class SftConfig(Optimiser):
    """Stage 2: rounds of annotation (eq. 12-13) and training (eq. 14-19)."""

    lr: float = Field(5e-4, gt=0, lt=1)
    thoughts: int = Field(4, ge=1, le=32, description="thinking steps l")
    rounds: int = Field(4, ge=1)
    epochs: int = Field(2, ge=1, description="epochs between annotations")
    batch: int = Field(256, ge=2)
    history_dropout: float = Field(0.0, ge=0, lt=1, description="share of history items left out in training")
    dpo: float = Field(0.1, ge=0, description="lambda of eq. 19")
    dpo_beta: float = Field(0.1, gt=0)
    quantisation: float = Field(0.25, ge=0, description="mu of eq. 19")
    state: float = Field(0.1, ge=0, description="delta of eq. 19")
    state_temperature: float = Field(0.07, gt=0)
    state_similarity: Literal["cosine", "dot"] = "cosine"
    ste: Literal["one_pass", "two_pass"] = "one_pass"
    own_thoughts: float = Field(0.8, ge=0, le=1, description="share of rows that train on sampled thoughts")
    annotated_items: float = Field(
        0.0, ge=0, le=1, description="weight of items after annotated thoughts, which know them"
    )
    calibration: int = Field(
        200,
        ge=0,
        description="steps that weigh the decoder against evidence, on the prompts of stage 3; 0: none",
    )
    patience: int = Field(2, ge=1, description="rounds without a better validation NDCG@10")
    eval_users: int = Field(1000, ge=1)
    annotate_batch: int = Field(512, ge=1, description="rows of one annotation call")

    @model_validator(mode="after")
    def _items_are_learnt(self) -> SftConfig:
        if self.own_thoughts == 0 and self.annotated_items == 0:
            raise ValueError(
                "own_thoughts is 0 and annotated_items is 0, so that no item would be learnt; raise one of them"
            )
        return self


class RewardWeights(Section):
    """Weight of each term in the total reward."""

    format: float = 1.0
    exact_match: float = 1.0
    similarity: float = 1.0
    likelihood: float = 1.0
    ranking: float = 1.0


class RlConfig(Section):
    """Stage 3: GRPO (eq. 20) with the five rewards (eq. 21-27)."""

    rows: Literal["named", "last", "all"] = Field(
        "named",
        description="prompts: of the last training row of each user, which is not learnt before, those whose target "
        "the evidence names; all of these; or all rows",
    )
    steps: int = Field(400, ge=1)
    prompts: int = Field(64, ge=1, description="prompts of one training batch")
    group_size: int = Field(16, ge=2, description="rollouts of one prompt, G")
    max_staleness: int = Field(1, ge=0, description="versions a rollout may lie behind the learner")
    lr: float = Field(1e-5, gt=0, lt=1)
    warmup: float = Field(0.02, ge=0, lt=1)
    weight_decay: float = Field(0.0, ge=0, lt=1)
    clip_norm: float = Field(1.0, gt=0)
    clip: float = Field(0.2, gt=0, lt=1)
    kl: float = Field(1e-3, ge=0)
    temperature: float = Field(1.0, gt=0)
    sampling: Literal["free", "trie"] = "free"
    ratio: Literal["token", "sequence"] = "token"
    objective: Literal["clipped", "decoupled"] = "clipped"
    advantage: Literal["floored_std", "std", "centred"] = Field(
        "floored_std", description="divide by max(std, .1), by the plain std, or not at all"
    )
    likelihood: Literal["squashed", "raw"] = "squashed"
    rewards: RewardWeights = RewardWeights()
    negatives: int = Field(50, ge=1, description="hard negatives of the ranking reward, N")
    similarity_items: int = Field(1024, ge=1, description="catalogue items the similarity is ranked in")
    signal: float = Field(0.02, ge=0, description="smallest range of total rewards that a group learns from")
    eval_every: int = Field(50, ge=1, description="steps between evaluations, each with a checkpoint")
    checkpoint_every: int = Field(
        10, ge=1, description="steps between checkpoints: what is done again when learners die"
    )
    eval_users: int = Field(1000, ge=1)


class EvaluateConfig(Section):
    """Decoding for evaluation and recommendation."""

    beam: int = Field(20, ge=1)
    batch: int = Field(64, ge=1, description="users decoded together; each sample counts as one")
    thoughts: Literal["greedy", "sampled", "beam"] = Field(
        "greedy", description="likeliest; drawn, their items merged; or one beam over thoughts and item"
    )
    samples: int = Field(8, ge=1, le=1000, description="sequences of thoughts that are drawn for a user, n")


class StagesConfig(Section):
    """Everything a stage can be told."""

    tokenize: TokenizeConfig = TokenizeConfig()
    retrieve: RetrieveConfig = RetrieveConfig()
    pretrain: PretrainConfig = PretrainConfig()
    sft: SftConfig = SftConfig()
    rl: RlConfig = RlConfig()
    evaluate: EvaluateConfig = EvaluateConfig()


class Config(Section):
    """The whole of cluster.yaml."""

    seed: int = Field(1, ge=0, lt=2**31)
    deterministic: bool = Field(False, description="the same run on the same machine gives the same bits")
    placement: Literal["auto", "colocated", "split"] = Field(
        "auto", description="colocated: all roles share all GPUs; split: each learner rank has one of its own"
    )
    cluster: ClusterConfig = ClusterConfig()
    data: DataConfig = DataConfig()
    items: ItemsConfig = ItemsConfig()
    model: ModelConfig = ModelConfig()
    actors: ActorsConfig = ActorsConfig()
    learners: LearnersConfig = LearnersConfig()
    stages: StagesConfig = StagesConfig()
    baselines: BaselinesConfig = BaselinesConfig()

    def trained(self, name: str) -> RetrieveConfig | PretrainConfig | ItemModelConfig | TigerConfig:
        """The section of a stage or baseline that trains by epochs."""
        return self.baselines.of(name) if name in TRAINED else getattr(self.stages, name)

    def of_stage(self, name: str) -> Config:
        """As a stage or baseline of a run has it: baselines are told histories alone, TIGER has keys of its own."""
        if name not in TRAINED:
            return self
        tiger = self.baselines.tiger
        dropout = self.model.dropout if tiger.dropout is None else tiger.dropout
        plain = {"evidence": 0, "direct_evidence": False, "softmax": tiger.softmax, "dropout": dropout}
        return self.model_copy(update={"model": self.model.model_copy(update=plain)})

    def _batches(self) -> dict[str, int]:
        batches = {name: getattr(self.stages, name).batch for name in ("pretrain", "retrieve", "sft")}
        return batches | {name: self.baselines.of(name).batch for name in TRAINED}

    def check_scale(self, role: str, count: int) -> None:
        """Raise UsageError where a role, or the learners, cannot be so many processes."""
        roles = [*type(self.actors).model_fields, LEARNERS]
        if role not in roles:
            raise UsageError(f"there is no role {role!r}; there are: {', '.join(roles)}")
        if not 1 <= count <= MOST_PROCESSES:
            raise UsageError(f"{role}={count}: a role has 1 to {MOST_PROCESSES:,} processes")
        if role == LEARNERS and not self.can_share(count):
            raise UsageError(f"learners={count}: so many ranks cannot share every batch evenly")

    def can_share(self, world_size: int) -> bool:
        """Whether so many learner ranks can share every batch evenly."""
        return not any(batch % world_size for batch in self._batches().values())

    @model_validator(mode="after")
    def _parts_agree(self) -> Config:
        if self.items.whiten and not self.items.pca:
            raise ValueError("items.whiten spreads principal components alike; say how many with items.pca")
        if self.items.behaviour.alignment > 0 and self.items.method != "rqvae":
            raise ValueError("items.behaviour.alignment is a loss of the RQ-VAE; set items.method: rqvae")
        if self.items.distance == "cosine" and self.items.method != "rqvae":
            raise ValueError("items.distance: cosine is for the RQ-VAE; residual k-means takes l2")
        if self.stages.rl.negatives > self.items.neighbours:
            raise ValueError(
                f"stages.rl.negatives is {self.stages.rl.negatives} but only items.neighbours = "
                f"{self.items.neighbours} text neighbours are kept; raise items.neighbours"
            )
        if self.stages.pretrain.retrieved > self.items.neighbours:
            raise ValueError(
                f"stages.pretrain.retrieved is {self.stages.pretrain.retrieved} but only items.neighbours = "
                f"{self.items.neighbours} text neighbours are kept"
            )
        for name, batch in self._batches().items():
            if batch % self.learners.world_size:
                raise ValueError(
                    f"{section_name(name)}.batch is {batch}, which {self.learners.world_size} learner ranks "
                    "(learners.world_size) cannot share evenly"
                )
        if self.items.codes**self.items.levels >= 2**63:
            raise ValueError(
                f"items.levels = {self.items.levels} of items.codes = {self.items.codes} give more ids than "
                "fit in 64 bits; lower one of them"
            )
        return self
