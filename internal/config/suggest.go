package config

// suggestion returns "did you mean …?" where one of the known words is close to the given one, and otherwise
// the fallback.
func suggestion(word string, known []string, fallback string) string {
	if s := closest(word, known); s != "" {
		return "did you mean " + quote(s) + "?"
	}
	return fallback
}

// closest returns the known word with the fewest edits to word, or "" where all are too far to be a slip of
// the finger.
func closest(word string, known []string) string {
	if len(word) > 100 {
		return ""
	}
	best, limit := "", 1+len(word)/4
	for _, k := range known {
		if d := edits(word, k); d <= limit && d < len(k) {
			best, limit = k, d-1
		}
	}
	return best
}

// edits counts the single bytes to be inserted, deleted, replaced or swapped with their neighbour to make b of a
// (the optimal string alignment distance).
func edits(a, b string) int {
	rows := [3][]int{make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)}
	before, last, row := rows[0], rows[1], rows[2]
	for j := range last {
		last[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row[0] = i
		for j := 1; j <= len(b); j++ {
			differs := 0
			if a[i-1] != b[j-1] {
				differs = 1
			}
			row[j] = min(last[j]+1, row[j-1]+1, last[j-1]+differs)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, last, row = last, row, before
	}
	return last[len(b)]
}
