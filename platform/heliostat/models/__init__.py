"""Plain models: torch modules, XGBoost boosters, scikit-learn estimators. No Ray, no data."""
