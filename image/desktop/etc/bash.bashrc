# For the user's terminal.
PS1='\[\e[38;5;110m\]\w\[\e[0m\] \$ '
alias ls='ls --color=auto'
alias ll='ls -l'
alias grep='grep --color=auto'
if [ "$SHLVL" = 1 ]; then
  printf 'Welcome to Lucid. This desktop lives as long as you are connected.\n'
  printf 'Super+Enter opens another terminal.\n\n'
fi
