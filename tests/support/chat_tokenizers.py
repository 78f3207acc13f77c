"""Chat tokenizers for tests: bytes as tokens, with the control tokens and templates of three model families.

No tokenizer of Qwen or Llama 3 comes from the package index, so these stand in for them. The templates are written from the
documented formats (ChatML with Hermes tool calls; Llama 3.1 headers) and are shorter than the models' own.
"""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
FORGETFUL = CHATML.replace(
    "{{ m.content }}", "{{ m.content if m.role == 'user' or loop.last else 'removed' }}"
)
"""Drops what earlier assistant turns said."""

_QWEN_SYSTEM = """\
{%- set first = messages[0].content if messages[0].role == 'system' else 'You are a helpful assistant.' -%}
<|im_start|>system
{{ first }}
{%- if tools %}

# Tools

You may call functions, whose signatures are inside <tools></tools>:
<tools>
{%- for tool in tools %}
{{ tool | tojson }}
{%- endfor %}
</tools>

Write a call as JSON inside <tool_call></tool_call>.
{%- endif %}<|im_end|>
"""
_QWEN_MESSAGES = """\
{%- for m in messages %}
{%- if m.role == 'user' %}<|im_start|>user
{{ m.content }}<|im_end|>
{% elif m.role == 'assistant' %}<|im_start|>assistant
{{ ASSISTANT }}
{%- for call in m.tool_calls %}
<tool_call>
{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}
</tool_call>
{%- endfor %}<|im_end|>
{% elif m.role == 'tool' %}
{%- if messages[loop.index0 - 1].role != 'tool' %}<|im_start|>user{% endif %}
<tool_response>
{{ m.content }}
</tool_response>
{%- if loop.last or messages[loop.index0 + 1].role != 'tool' %}<|im_end|>
{% endif %}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""
QWEN2 = _QWEN_SYSTEM + _QWEN_MESSAGES.replace("ASSISTANT", "m.content")
QWEN3 = _QWEN_SYSTEM + _QWEN_MESSAGES.replace("ASSISTANT", "m.content.split('</think>')[-1].lstrip('\\n')")
"""Drops the thinking of earlier turns, as Qwen3's does."""

LLAMA3 = """\
{{- bos_token }}
{%- set date = date_string if date_string is defined else '1 Jan 2000' %}
{%- if messages[0].role == 'system' %}{% set first = messages[0].content | trim %}{% set messages = messages[1:] %}
{%- else %}{% set first = '' %}{% endif -%}
<|start_header_id|>system<|end_header_id|>

Today Date: {{ date }}

{{ first }}<|eot_id|>
{%- if tools %}{% set question = messages[0].content | trim %}{% set messages = messages[1:] -%}
<|start_header_id|>user<|end_header_id|>

Given the following functions, answer with a JSON call {"name": function, "parameters": arguments} where one helps.

{% for tool in tools %}{{ tool | tojson(indent=4) }}

{% endfor %}{{ question }}<|eot_id|>
{%- endif %}
{%- for m in messages %}
{%- if m.role in ('tool', 'ipython') -%}
<|start_header_id|>ipython<|end_header_id|>

{{ m.content | tojson }}<|eot_id|>
{%- elif m.tool_calls -%}
<|start_header_id|>assistant<|end_header_id|>

{"name": "{{ m.tool_calls[0].function.name }}", "parameters": {{ m.tool_calls[0].function.arguments | tojson }}}<|eot_id|>
{%- else -%}
<|start_header_id|>{{ m.role }}<|end_header_id|>

{{ m.content | trim }}<|eot_id|>
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt -%}
<|start_header_id|>assistant<|end_header_id|>

{% endif %}"""

_LLAMA_TOKENS = [
    "<|begin_of_text|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|python_tag|>",
]


GEMMA = """\
{{ bos_token }}{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}
{%- for m in messages %}
{%- if (m.role == 'user') != (loop.index0 % 2 == 0) %}
{{- raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}
{%- endif %}<|im_start|>{{ 'model' if m.role == 'assistant' else m.role }}
{{ m.content | trim }}<|im_end|>
{% endfor %}
{%- if add_generation_prompt %}<|im_start|>model
{% endif %}"""
"""Takes no system message, and user and assistant by turns only; Mistral's first templates do so too."""
DEAF = CHATML.replace("{% for m in messages %}", "{% for m in messages if m.role != 'system' %}")
"""Drops what the system says."""

ZEPHYR = (
    "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}{{ eos_token }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
"""TinyLlama's; the names of roles are no tokens."""

OPEN, CLOSED = "<think>\n", "<think>\n\n</think>\n\n"
"""How Qwen3-Thinking and DeepSeek-R1 begin a turn, and how Qwen3 does without thinking."""


def beginning(template: str, begun: str) -> str:
    """`template` with `begun` at the end of its generation prompt."""
    return f"{begun}{{% endif %}}".join(template.rsplit("{% endif %}", 1))


def chat_tokenizer(template: str | None = CHATML, normaliser=None) -> PreTrainedTokenizerFast:
    """A tokenizer of bytes with `template` and the control tokens of its family.

    As in Qwen's tokenizers, ``<tool_call>`` and ``<think>`` are added tokens that do not count as special.
    """
    llama = template is not None and "<|eot_id|>" in template
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE({token: i for i, token in enumerate(alphabet)}, []))
    if normaliser is not None:
        core.normalizer = normaliser
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token="<|begin_of_text|>" if llama else None,
        eos_token="<|eot_id|>" if llama else "<|im_end|>",
        additional_special_tokens=_LLAMA_TOKENS if llama else ["<|im_start|>", "<|im_end|>"],
        clean_up_tokenization_spaces=False,
    )
    if not llama:
        tags = ("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>", "<think>", "</think>")
        fast.add_tokens([AddedToken(tag, special=False, normalized=False) for tag in tags])
    fast.chat_template = template
    return fast


def sentencepiece_tokenizer(
    more: Sequence[str] = (), merges: Sequence[tuple[str, str]] = (), template: str = ZEPHYR
) -> PreTrainedTokenizerFast:
    """A tokenizer as that of Llama 2, TinyLlama and Mistral: blanks are `▁`, and a character outside the
    vocabulary is its bytes, such as `<0x0A>`.

    Args:
        more: further tokens, such as those of line breaks that Gemma's vocabulary has besides.
        merges: pairs that become one token.
        template: its chat template.
    """
    letters = [chr(code) for code in range(33, 127)]
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *letters, *more]
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    core = Tokenizer(
        models.BPE(vocabulary, list(merges), unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    )
    core.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    core.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=core,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = template
    return fast


SCHEMAS = [
    {
        "type": "function",
        "function": {
            "name": "search",
            "description": "Search the documents.",
            "parameters": {"type": "object", "properties": {"query": {"type": "string"}}},
        },
    }
]
