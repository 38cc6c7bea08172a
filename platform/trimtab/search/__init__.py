"""The sweep's Optuna studies, and Tune's searcher, scheduler and control loop over them."""
