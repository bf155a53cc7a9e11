"""One module or folder per dataset that is built in; `pipeline.convert.registry` finds them."""
