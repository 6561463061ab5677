"""One auto-encoder for each domain over shared features, and a discriminator that their codes must fool.

A reconstruction of "System for Deduplication of Machine Generated Designs from Fashion Catalog" (Banerjee et al.): from
unlabelled pictures of both domains, auto-encoders map into one space, where an adversarial loss makes the two encoded
distributions alike. Its layers, sizes and weights are not public. Ours:

- shared features: square roots of the frozen backbone's, on their 512 leading principal components;
- encoder and decoder of each domain: one linear layer each, 512 to 256 and back. Both domains begin with the same
  principal axes (each about its own mean, or both about the common one). With random beginnings the distributions come
  to match while identities do not, and retrieval falls to chance: the adversarial loss knows nothing of who is who,
  only the common beginning does;
- reconstruction: mean squared error, as a share of the features' variance;
- discriminator: two hidden layers without BatchNorm (`losses.DomainDiscriminator`) on unit codes, since codes are
  compared by cosine; kept smooth by a gradient penalty (Mescheder et al. 2018, arXiv:1801.04406), without which it
  tells the domains apart perfectly and teaches nothing;
- gradient reversal (Ganin and Lempitsky 2015) in place of alternating phases: the discriminator and the auto-encoders
  each take one step a batch. Half of each batch comes from each domain;
- plain gradient descent with momentum for the auto-encoders. They begin where reconstruction is best, and Adam, whose
  steps are as long for noise as for signal, walks off from there even without a domain loss.

A `strength` of 0 is the auto-encoders alone.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from encoders import losses
from encoders.backbone import DIM
from encoders.methods.heads import Head
from encoders.methods.linear import Basis, batches
from encoders.methods.plain import DAMPING, centred, pooled
from encoders.methods.sides import Sides


@dataclass(frozen=True, slots=True)
class Settings:
    """How the auto-encoders are trained. `strength` weighs the adversarial loss beside reconstruction (weight 1).

    `own_means`: each domain begins about its own mean. `same_beginning` False begins with random layers instead, to
    show what that does.
    """

    strength: float = 1.0
    own_means: bool = True
    penalty: float = 1.0
    steps: int = 300
    batch: int = 128
    hidden: int = 128
    learning_rate: float = 1e-3
    discriminator_rate: float = 3e-4
    damping: float = DAMPING
    same_beginning: bool = True


class AutoEncoder(nn.Module):  # type: ignore[misc]  # torch's types are not read
    """A linear encoder and a linear decoder of one domain; the decoder begins as the encoder's inverse."""

    def __init__(self, encoder: nn.Linear) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = nn.utils.skip_init(nn.Linear, encoder.out_features, encoder.in_features)
        with torch.no_grad():
            self.decoder.weight.copy_(torch.linalg.pinv(encoder.weight.double()))
            self.decoder.bias.copy_(-self.decoder.weight @ encoder.bias)

    def forward(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Codes, and the rows made of them again.

        Shape: (n, width) -> (n, dim), (n, width).
        """
        codes: Tensor = self.encoder(rows)
        return codes, self.decoder(codes)


def fit(sides: Sides, seed: int, dim: int = DIM, settings: Settings | None = None) -> Head:
    """Train both auto-encoders against the discriminator; the head is the two encoders."""
    chosen = settings or Settings()
    with torch.random.fork_rng(devices=[]):  # layers draw their beginning from torch's one global generator
        torch.manual_seed(seed)
        discriminator = losses.DomainDiscriminator(dim, chosen.hidden)
        basis = Basis.of(sides)
        encoders = _encoders(basis, sides, dim, chosen)
    coders = nn.ModuleList(AutoEncoder(encoder) for encoder in encoders)
    coding = torch.optim.SGD(coders.parameters(), lr=chosen.learning_rate, momentum=0.9)
    slower = torch.optim.lr_scheduler.CosineAnnealingLR(coding, max(1, chosen.steps))
    telling = torch.optim.Adam(discriminator.parameters(), lr=chosen.discriminator_rate, betas=(0.5, 0.9))
    rows = (basis.rows(sides.catalog), basis.rows(sides.generated))
    domains = torch.arange(2).repeat_interleave(chosen.batch)
    for batch in batches(rows, chosen.batch, chosen.steps, torch.Generator().manual_seed(seed)):
        coded = [coder(side) for coder, side in zip(coders, batch, strict=True)]
        loss = torch.stack([_error(made, side) for (_, made), side in zip(coded, batch, strict=True)]).mean()
        if chosen.strength:
            codes = _scaled(torch.cat([codes for codes, _ in coded]))
            _teach(discriminator, telling, codes.detach(), domains, chosen.penalty)
            told = discriminator(losses.reverse_gradient(codes, chosen.strength))
            loss = loss + losses.domain_loss(told, domains)
        coding.zero_grad()
        loss.backward()
        coding.step()
        slower.step()
    return Head(*(basis.folded(coder.encoder) for coder in coders))


def _encoders(basis: Basis, sides: Sides, dim: int, chosen: Settings) -> list[nn.Linear]:
    """The encoder of each domain as it begins."""
    head = (centred if chosen.own_means else pooled)(sides, dim, chosen.damping)
    encoders = [basis.layer(head.catalog), basis.layer(head.generated)]
    if not chosen.same_beginning:
        for encoder in encoders:
            encoder.reset_parameters()
    return encoders


def _teach(
    discriminator: nn.Module, optimizer: torch.optim.Optimizer, codes: Tensor, domains: Tensor, penalty: float
) -> None:
    """One step of the discriminator, its slope at the codes kept small."""
    codes = codes.requires_grad_()
    logits = discriminator(codes)
    (slope,) = torch.autograd.grad(logits.sum(), codes, create_graph=True)
    loss = losses.domain_loss(logits, domains) + penalty / 2 * slope.square().sum(dim=1).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def _error(made: Tensor, rows: Tensor) -> Tensor:
    """Mean squared length of what is missing, of rows whose mean squared length is 1."""
    return (made - rows).square().sum(dim=1).mean()


def _scaled(codes: Tensor) -> Tensor:
    """Unit codes times the root of their length, so that a coordinate is near 1, as the discriminator expects."""
    return functional.normalize(codes, dim=1) * codes.shape[1] ** 0.5
