"""Exported programs in float16 and bfloat16."""

from typing import Any, Dict, Tuple

NARROW_WEIGHTS = frozenset(
    "linear addmm bilinear convolution conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d".split()
)
"""Operators whose weights are narrow, so that they must get narrow activations."""


PRODUCTS = frozenset(("matmul", "mm", "bmm", "baddbmm", "scaled_dot_product_attention"))


LIKE_FIRST = frozenset(
    ("layer_norm", "group_norm", "instance_norm", "batch_norm", "native_layer_norm", "native_group_norm", "prelu")
)
"""Operators whose parameters must have the type of what they are applied to."""


def narrow_program(program: Any, image: Any, narrow: Any) -> None:
    """Change a program of `build_program`, in place, such that it computes in float16 or bfloat16.

    Stored tensors become narrow, and casts stand where an operator would get two types. What the network itself
    computes in float32, such as a softmax over all tokens, stays so up to the next layer with weights. In float16 the
    products of two activations are float32 too: sums over thousands of tokens leave its range.

    Args:
        program: gets its image narrow afterwards.
        image: an example input, float32; the program is run once to see the types.
        narrow: ``torch.float16`` or ``torch.bfloat16``.
    """
    import torch

    graph = program.graph
    exact = dict(program.named_buffers())
    for name, tensor in exact.items():
        if tensor.is_floating_point():
            setattr(program, name, narrowed(tensor, narrow))
    last = {source: node for node in graph.nodes for source in node.all_input_nodes}
    values: Dict[Any, Any] = {}
    for node in list(graph.nodes):
        if node.op == "placeholder":
            values[node] = image.to(narrow)
        elif node.op == "get_attr":
            values[node] = getattr(program, node.target)
        elif node.op == "call_function":
            sources = node.all_input_nodes
            kind = _wanted(node, values, narrow)
            for source in sources:
                if kind is not None and _other_type(values[source], kind):
                    with graph.inserting_before(node):
                        cast, value = _cast(program, source, values[source], exact, kind)
                    values[cast] = value
                    node.replace_input_with(source, cast)
            look_up = values.__getitem__
            values[node] = node.target(
                *torch.fx.node.map_arg(node.args, look_up), **torch.fx.node.map_arg(node.kwargs, look_up)
            )
            # Activations go as early as in a run, or the peak of the memory would be that of this pass.
            for source in set(sources) | set(node.all_input_nodes):
                if source.op == "call_function" and last.get(source, node) is node:
                    values.pop(source, None)
    _drop_unused(program)
    program.recompile()


def _drop_unused(program: Any) -> None:
    """Remove the tensors that nothing reads."""
    graph = program.graph
    for node in list(graph.nodes):
        if node.op == "get_attr" and not node.users:
            graph.erase_node(node)
    used = {node.target for node in graph.nodes if node.op == "get_attr"}
    for name in [name for name, _ in program.named_buffers() if name not in used]:
        delattr(program, name)


def _other_type(value: Any, kind: Any) -> bool:
    """Whether a value is a floating-point tensor of another type."""
    import torch

    return torch.is_tensor(value) and value.is_floating_point() and value.dtype != kind


def _cast(program: Any, source: Any, value: Any, exact: Dict[str, Any], kind: Any) -> Tuple[Any, Any]:
    """A node that gives what ``source`` gives in another type, and its value; stored tensors are rounded only once."""
    import torch

    if source.op != "get_attr":
        return program.graph.call_function(torch.ops.aten.to.dtype, (source, kind)), value.to(kind)
    name = "%s_%s" % (source.target, str(kind).replace("torch.", ""))
    program.register_buffer(name, exact[source.target].to(kind))
    return program.graph.get_attr(name), getattr(program, name)


def _wanted(node: Any, values: Dict[Any, Any], narrow: Any) -> Any:
    """The type that all floating inputs of an operator must have; None where it takes several."""
    import torch

    parts = str(node.target).split(".")
    name = parts[1] if len(parts) == 3 else ""
    if name in NARROW_WEIGHTS:
        return narrow
    if name in LIKE_FIRST:
        return values[node.args[0]].dtype
    if name not in PRODUCTS:
        return None
    if any(source.op == "get_attr" for source in node.all_input_nodes):
        return narrow
    types = [values[source].dtype for source in node.all_input_nodes if values[source].is_floating_point()]
    return torch.float32 if narrow == torch.float16 or torch.float32 in types else narrow


def narrowed(tensor: Any, narrow: Any) -> Any:
    """A mask of -1e9 must become a large number, not an infinity that turns into NaN."""
    import torch

    limits = torch.finfo(narrow)
    return tensor.clamp(limits.min, limits.max).to(narrow)
