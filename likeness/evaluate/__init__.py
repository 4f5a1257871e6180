"""The field's measures of generated videos, each under the name and protocol it was published with (papers: Concat-ID, section 5)."""
