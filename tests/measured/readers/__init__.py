"""Tests of the readers, by what strangers' files do."""
