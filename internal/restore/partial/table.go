package partial

import (
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
)

// tablePattern makes of TABLE or SCHEMA.TABLE a pattern of pg_dump in which nothing is a wildcard and nothing is folded.
// A name stands as it is, or in double quotes as in SQL: then it may have dots and quotes.
func tablePattern(table string) (string, error) {
	first, rest, err := cutName(table)
	if err != nil {
		return "", err
	}
	if rest == nil {
		return pgx.Identifier{first}.Sanitize(), nil
	}
	second, more := *rest, (*string)(nil)
	if strings.HasPrefix(second, `"`) {
		if second, more, err = cutName(second); err != nil {
			return "", err
		}
	}
	if more != nil || second == "" || first == "" {
		return "", fmt.Errorf("%s is no SCHEMA.TABLE", table)
	}
	return pgx.Identifier{first, second}.Sanitize(), nil
}

// cutName cuts a name off at its dot; rest is nil where there is none.
func cutName(s string) (name string, rest *string, err error) {
	if s == "" {
		return "", nil, errors.New("the name is empty")
	}
	if s[0] != '"' {
		if before, after, ok := strings.Cut(s, "."); ok {
			return before, &after, nil
		}
		return s, nil, nil
	}
	var b strings.Builder
	for i := 1; i < len(s); i++ {
		switch {
		case s[i] != '"':
			b.WriteByte(s[i])
		case i+1 < len(s) && s[i+1] == '"': // a doubled one is one
			b.WriteByte('"')
			i++
		case i+1 == len(s):
			return b.String(), nil, nil
		case s[i+1] == '.':
			after := s[i+2:]
			return b.String(), &after, nil
		default:
			return "", nil, fmt.Errorf("in %s a dot is missing behind the quote at %d", s, i+1)
		}
	}
	return "", nil, fmt.Errorf("in %s a quote is not closed", s)
}
