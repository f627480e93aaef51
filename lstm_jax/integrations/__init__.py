"""Our recurrence under the layers of other libraries."""
