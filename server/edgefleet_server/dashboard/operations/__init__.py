"""Operations of the public API as pages use them: which there are, what a form sends, the same as a command, and the call
itself.

Below `core`: a layout shows the command of each form.
"""
