"""`design-dedup publish` and `withdraw`: generated designs, as a generator service sends them."""

from streams.cli.submit import (
    PATIENCE_S,
    IdsArgument,
    InlineOption,
    JsonOption,
    SourceArgument,
    TimeoutOption,
    WaitOption,
    submit_listing,
    submit_tombstones,
)


def publish(
    source: SourceArgument,
    wait: WaitOption = False,
    timeout: TimeoutOption = PATIENCE_S,
    inline: InlineOption = True,
    as_json: JsonOption = False,
) -> None:
    """Publish generated designs; each gets a verdict: accept or duplicate.

    The listing is as for `catalog load`, with the fields id, images,
    category, title, tenant and generator.

    \b
    design-dedup publish designs/ --wait
    design-dedup publish designs.jsonl --wait --json
    """
    submit_listing("design", source, inline=inline, wait=wait, timeout_s=timeout, as_json=as_json)


def withdraw(
    ids: IdsArgument, wait: WaitOption = False, timeout: TimeoutOption = PATIENCE_S, as_json: JsonOption = False
) -> None:
    """Withdraw designs: an accepted one stands in nobody's way any more.

    \b
    design-dedup withdraw design-7 --wait
    """
    submit_tombstones("design", ids, wait=wait, timeout_s=timeout, as_json=as_json)
