"""The sweep's broker and slots, which outlive every trial, and the client through which a trial uses them."""
