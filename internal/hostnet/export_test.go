package hostnet

// DialEvicting is dialEvicting.
var DialEvicting = dialEvicting

// MaxEvictions is maxEvictions.
const MaxEvictions = maxEvictions
