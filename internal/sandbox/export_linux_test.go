package sandbox

// For tests of what needs a kernel that says no.
var (
	ExplainClone  = explainClone
	ExplainInside = explainInside
	ExplainTUN    = explainTUN
	ExplainMount  = explainMount
)
