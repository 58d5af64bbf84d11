// The user of the services: MongoDB's image runs this once, when its volume is empty.
db.getSiblingDB("macromdm").createUser({
  user: "macromdm",
  pwd: process.env.MACROMDM_PASSWORD,
  // dbAdmin: for collMod, when a retention changes.
  roles: [
    { role: "readWrite", db: "macromdm" },
    { role: "dbAdmin", db: "macromdm" },
  ],
});
