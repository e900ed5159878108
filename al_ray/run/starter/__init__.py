"""The beginning of a project: a folder with an agent, its tasks, its reward, a recipe and a test, which
runs as it is. ``templates`` are the files, in which ``@NAME@`` is the project's name."""
