"""A project of one's own outside of the repository: `descry init`.

The files beside this one are links to the repository's own; an installed package has copies.
"""
