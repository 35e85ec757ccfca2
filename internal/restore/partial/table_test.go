package partial

import "testing"

func TestTablePattern(t *testing.T) {
	for in, want := range map[string]string{
		"orders": `"orders"`, "Orders": `"Orders"`, "s.Orders": `"s"."Orders"`, "a*.b?": `"a*"."b?"`, "größe.日本": `"größe"."日本"`,
		`"Orders"`: `"Orders"`, `s."Orders"`: `"s"."Orders"`, `"My.Schema".t`: `"My.Schema"."t"`, `"a""b"."c.d"`: `"a""b"."c.d"`,
		"s.with.dots": `"s"."with.dots"`, `s.in"side`: `"s"."in""side"`,
		"": "", ".t": "", "s.": "", `"open`: "", `"a"b`: "", `"a"."b".c`: "", `s."b"c`: "", `s."open`: "", `"".t`: "",
	} {
		got, err := tablePattern(in)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("tablePattern(%s) is %s (%v), want %s", in, got, err, want)
		}
	}
}

func TestWithoutPassword(t *testing.T) {
	for in, want := range map[string]string{
		"host=h password=secret dbname=d":              "host=h  dbname=d",
		`host=h dbname=d password = 'se cr\'et'`:       "host=h dbname=d ",
		"password=secret host=h":                       "  host=h",
		"host=h dbname=d":                              "host=h dbname=d",
		"postgres://u:secret@h/d":                      "postgres://u@h/d",
		"postgresql://u:secret@h/d?sslmode=disable":    "postgresql://u@h/d?sslmode=disable",
		"postgresql://h/d?user=u&password=secret":      "postgresql://h/d?user=u",
		"postgres://u@h:5433/d?application_name=a%20b": "postgres://u@h:5433/d?application_name=a+b",
	} {
		got, password, err := withoutPassword(in)
		if err != nil || got != want {
			t.Errorf("withoutPassword(%s) is %q (%v), want %q", in, got, err, want)
		}
		if has := want != in && password != ""; has && password != "secret" && password != "se cr'et" {
			t.Errorf("withoutPassword(%s) took %q out", in, password)
		}
	}
	if _, _, err := withoutPassword("host="); err == nil {
		t.Log("an empty host is the default one")
	}
	if _, _, err := withoutPassword("post gres://"); err == nil {
		t.Error("a string that is none was taken")
	}
}
