package line

// StartAt returns a text that is, among the names of objects, in the place of after, which may be anything: what a
// server is asked to begin a listing at must be text that it takes.
func StartAt(after string) string {
	for i := range len(after) {
		switch c := after[i]; {
		case c >= 'a' && c <= 'z', c >= '0' && c <= '9', c == '.', c == '_', c == '-', c == '/':
			continue
		case c < '-':
			return after[:i] + "!"
		case c > 'z':
			return after[:i] + "~"
		default: // between two characters of names, like c itself; what follows changes nothing any more
			return after[:i] + string(rune(c))
		}
	}
	return after
}
