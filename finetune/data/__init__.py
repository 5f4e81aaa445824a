"""Tables, folders and hub sets -> checked splits; the batch plan; loaders."""

from finetune.data.opening import Splits, open_rows, open_splits
from finetune.data.readers import Tables, from_object, read
from finetune.data.splits import count_copies, split_by_share
from finetune.data.validation import check_rows

__all__ = [
    "Splits",
    "Tables",
    "check_rows",
    "count_copies",
    "from_object",
    "open_rows",
    "open_splits",
    "read",
    "split_by_share",
]
