-- KEYS: the five. ARGV: epoch. Begins anew where nothing is. Answers {epoch, last revision}.
prepare(ARGV[1])
return {state[2], state[3]}
