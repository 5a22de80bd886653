package config

// Nearest is the name that a mistyped word was probably meant to be, or ""
// when none is close.
func Nearest(word string, names []string) string {
	best, at := "", len(word)/3+2
	for _, name := range names {
		if d := distance(word, name); d < at {
			best, at = name, d
		}
	}
	return best
}

// distance is the Levenshtein distance of a and b in bytes.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			substitute := diagonal
			if a[i] != b[j] {
				substitute++
			}
			diagonal = row[j+1]
			row[j+1] = min(substitute, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
