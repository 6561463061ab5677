"""Tests of infra/ and docker-compose.yml, with no Docker engine."""
