"""The sweep's Optuna studies, and the Ray Tune searcher, scheduler and control loop that use them."""
