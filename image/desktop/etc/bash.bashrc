# For the user's terminal.
PS1='\[\e[38;5;110m\]\w\[\e[0m\] \$ '
alias ls='ls --color=auto'
alias ll='ls -l'
alias grep='grep --color=auto'
if [ "$SHLVL" = 1 ]; then
  printf 'Welcome to Lucid. This desktop waits for you for a while when you disconnect;\n'
  printf 'Super+Shift+E logs off.\n\n'
fi
