"""Configurations of other servers, written as ours."""
