"""MongoDB's conditions and updates, as they apply to one document: no database in here.

Source: MongoDB's manual, "Query and Projection Operators", "Update Operators" and "BSON Comparison Order".
Only what `shared.storage.database` lists; the rest raises NotImplementedError.
"""
