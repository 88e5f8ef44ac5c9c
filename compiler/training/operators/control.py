"""If, Loop and Scan: their bodies see the tensors of the graphs around them."""

from __future__ import annotations

import torch

from .base import Call, Tensor, Value, axis_of, operator


@operator("If")
def if_(call: Call, condition: Tensor) -> tuple[Value, ...]:
    branch = "then_branch" if bool(condition.reshape(()).item()) else "else_branch"
    return tuple(call.scope.host.run_body(call.node.bodies[branch][0], [], call.scope))


@operator("Loop")
def loop(call: Call, most: Tensor | None, condition: Tensor | None, *carried: Value) -> tuple[Value, ...]:
    body = call.node.bodies["body"][0]
    state, count = list(carried), len(carried)
    scanned: list[list[Value]] = [[] for _ in range(len(body.outputs) - 1 - count)]
    limit = int(most.reshape(()).item()) if most is not None else None
    going, step = condition is None or bool(condition.reshape(()).item()), 0
    device = call.device
    while going and (limit is None or step < limit):
        given = [torch.tensor(step, device=device), torch.tensor(True, device=device), *state]
        answer, *rest = call.scope.host.run_body(body, given, call.scope)
        going, step = bool(answer.reshape(()).item()), step + 1
        state = rest[:count]
        for values, value in zip(scanned, rest[count:], strict=True):
            values.append(value)
    return (*state, *(torch.stack(v) if v else torch.zeros(0, device=device) for v in scanned))


@operator("Scan")
def scan(call: Call, *given: Value) -> tuple[Value, ...]:
    if call.opset < 9:
        raise call.refuse("Scan before version 9")
    body, count = call.node.bodies["body"][0], int(call.get("num_scan_inputs"))
    state, inputs = list(given[: len(given) - count]), given[len(given) - count :]
    outputs = len(body.outputs) - len(state)
    axes = [axis_of(a, x.ndim) for a, x in zip(call.get("scan_input_axes") or [0] * count, inputs, strict=True)]
    backwards = call.get("scan_input_directions") or [0] * count
    taken = [
        list((x.flip(axis) if back else x).unbind(axis)) for x, axis, back in zip(inputs, axes, backwards, strict=True)
    ]
    collected: list[list[Tensor]] = [[] for _ in range(outputs)]
    for step in zip(*taken, strict=True):
        results = call.scope.host.run_body(body, [*state, *step], call.scope)
        state = results[: len(state)]
        for values, value in zip(collected, results[len(state) :], strict=True):
            values.append(value)
    found = []
    to = call.get("scan_output_axes") or [0] * outputs
    for values, axis, back in zip(collected, to, call.get("scan_output_directions") or [0] * outputs, strict=True):
        ordered = values[::-1] if back else values
        found.append(torch.stack(ordered, axis_of(axis, ordered[0].ndim + 1)))
    return (*state, *found)
