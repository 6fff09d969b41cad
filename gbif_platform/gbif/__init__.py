"""GBIF's protocol: Darwin Core Archives, downloads, terms and licences. Knows neither lake nor Dagster."""
